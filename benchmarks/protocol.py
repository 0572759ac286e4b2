"""What was measured and how: the record without which a number means nothing.

Nothing here names a host, a user or a folder.
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..engines.bundle import Bundle, Precision
from ..engines.machine import CPUINFO, Machine, installed_version, observe_machine
from ..engines.open import Backend
from ..engines.places import ROOT
from ..model.card import StrictModel
from ..model.errors import UsageError
from ..model.tasks import TaskName
from .load import LoadPlan
from .nvml import GpuMoment, gpu_moments
from .timing import Plan, WarmUpRule

#: Packages whose version can change a result.
PACKAGES = (
    "coronanet",
    "cuda-python",
    "numpy",
    "nvidia-pytriton",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "torch",
    "tritonclient",
)
#: Variables of the environment that change how many threads compute, or with what; none of them can hold a folder.
VARIABLES = (
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_VISIBLE_DEVICES",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_NUM_THREADS",
)
#: What a copy without ``.git`` is a copy of.
SOURCE_VARIABLE = "CORONANET_SOURCE"
STAT = Path("/proc/stat")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
#: Share of the cores' time above which a report says that the machine was not its own.
BUSY = 0.25
#: How long git may take to answer.
GIT_TIMEOUT_S = 10.0
#: How long the machine is watched before it is used.
WATCH_S = 0.1
Target = Literal["served", "in_process", "perf_analyzer"]


class InputRecord(StrictModel):
    """What the calls are fed: ``shape`` is of one slice, ``sha256`` of the bytes of all slices in C order.

    ``step`` says what stands in where one step of the chain is measured and does not take the image.
    """

    description: str
    dtype: str
    shape: tuple[int, ...]
    slices: int
    sha256: str
    step: str


class EngineCase(StrictModel):
    """One network on one backend in one precision; ``threads`` None leaves the number to the backend.

    ``graphs`` says whether copies and kernels were replayed as one CUDA graph; None where the backend has none.
    """

    kind: Literal["engine"] = "engine"
    task: TaskName
    backend: Backend
    precision: Precision
    batch: Annotated[int, Field(ge=1)]
    threads: int | None
    graphs: bool | None = None

    def __str__(self) -> str:
        graphs = {None: "", True: ", CUDA graph", False: ", no CUDA graph"}[self.graphs]
        return f"{self.task} {self.backend} {self.precision} batch {self.batch}{graphs}"


class PeerCase(StrictModel):
    """The same weights run by somebody else's means, as its users would; ``threads`` as in `EngineCase`."""

    kind: Literal["peer"] = "peer"
    task: TaskName
    peer: str
    batch: Annotated[int, Field(ge=1)]
    threads: int | None

    def __str__(self) -> str:
        return f"{self.task} {self.peer} batch {self.batch}"


class LoadCase(StrictModel):
    """One target under closed-loop load; ``threads`` are those of one inference.

    ``perf_analyzer`` is the served model again, asked by NVIDIA's own client.
    ``engines`` says what runs each network of a chain in process; what runs behind a server only the server knows.
    """

    kind: Literal["load"] = "load"
    target: Target
    model: str
    concurrency: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    threads: int | None
    engines: dict[str, str]

    def __str__(self) -> str:
        return f"{self.target} {self.model} concurrency {self.concurrency} batch {self.batch}"


class Method(StrictModel):
    """How the samples were taken: what the clock runs around, what it leaves out, and in which order.

    ``fresh`` says how load time, first inference and peak memory were taken; None where they were not.
    """

    verb: Literal["bench engines", "bench prove", "bench serving", "bench study", "bench waterfall"]
    measures: str
    transfers: str
    order: str
    input: InputRecord
    warm_up: WarmUpRule
    plan: Plan | LoadPlan
    fresh: str | None = None


class Software(StrictModel):
    """What ran: ``source`` is the commit of a checkout, ``+`` where it had changes, else the version.

    ``?`` stands behind either where git did not tell the commit, or whether it had changes. Of a copy without ``.git``
    it is what the variable ``CORONANET_SOURCE`` says: the commit that was copied.
    ``environment`` are those of `VARIABLES` that were set; ``bundles`` gives the hash of each bundle's manifest, by
    task.
    """

    source: str
    python: str
    packages: dict[str, str]
    environment: dict[str, str] = Field(default_factory=dict[str, str])
    bundles: dict[str, str]


class Moment(StrictModel):
    """When, and what the machine was doing already, each where the system tells.

    ``load_average`` is of the last minute; ``busy_share`` (0..1) is the time that all cores together did not idle in
    the tenth of a second before the start; ``cpu_mhz`` the mean clock then, ``governor`` what steers it.
    """

    started: str
    load_average: float | None
    busy_share: float | None = None
    cpu_mhz: float | None = None
    governor: str | None = None
    gpus: tuple[GpuMoment, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before believing a number that was taken then."""
        if self.busy_share is not None and self.busy_share > BUSY:
            return (f"busy machine: {self.busy_share:.0%} of its cores' time was taken before the measurement began",)
        return ()


class Protocol(StrictModel):
    """Everything that two results must share to be the same measurement, and the moment, which they never share."""

    method: Method
    software: Software
    machine: Machine
    moment: Moment

    def sha256(self, case: StrictModel) -> str:
        """Names the measurement of one case: equal where method, software, machine and case are."""
        parts = {
            "method": self.method.model_dump(mode="json"),
            "software": self.software.model_dump(mode="json"),
            "machine": self.machine.model_dump(mode="json"),
            "case": case.model_dump(mode="json"),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()


def observe(method: Method, bundles: Mapping[TaskName, Bundle]) -> Protocol:
    """The protocol of a measurement that is about to start on this machine."""
    # First, so that it is of the machine as it was found.
    moment = observe_moment()
    return Protocol(method=method, software=observe_software(bundles), machine=observe_machine(), moment=moment)


def observe_software(bundles: Mapping[TaskName, Bundle]) -> Software:
    return Software(
        source=_source(ROOT),
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := installed_version(name)) is not None},
        environment={name: os.environ[name] for name in VARIABLES if name in os.environ},
        bundles={name: bundle.sha256 for name, bundle in sorted(bundles.items())},
    )


def observe_moment() -> Moment:
    """The machine as it is now, watched for a tenth of a second."""
    before = _cpu_times()
    time.sleep(WATCH_S)
    return Moment(
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        busy_share=busy_share(before, _cpu_times()),
        cpu_mhz=_cpu_mhz(),
        governor=GOVERNOR.read_text(encoding="ascii").strip() if GOVERNOR.is_file() else None,
        gpus=gpu_moments(),
    )


def busy_share(before: tuple[int, ...], after: tuple[int, ...]) -> float | None:
    """The share (0..1) of time between two readings of ``/proc/stat`` that was neither idle nor waiting for a disk."""
    spent = [late - early for early, late in zip(before, after, strict=True)]
    idle = sum(spent[3:5])
    return (sum(spent) - idle) / sum(spent) if sum(spent) > 0 else None


def _cpu_times() -> tuple[int, ...]:
    """Ticks of all cores: user, nice, system, idle, iowait, irq, softirq, steal; empty where nothing tells."""
    if not STAT.is_file():
        return ()
    return tuple(int(part) for part in STAT.read_text(encoding="ascii").partition("\n")[0].split()[1:9])


def _cpu_mhz() -> float | None:
    text = CPUINFO.read_text(encoding="utf-8") if CPUINFO.is_file() else ""
    clocks = [float(found) for found in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)]
    return sum(clocks) / len(clocks) if clocks else None


def _source(root: Path) -> str:
    version = installed_version("coronanet") or "unknown"
    if not (root / ".git").exists():
        return _told_source() or version
    git = shutil.which("git")
    commit = git and _ask([git, "-C", str(root), "rev-parse", "HEAD"])
    if git is None or not commit:
        return f"{version}?"
    changed = _ask([git, "-C", str(root), "status", "--porcelain"])
    if changed is None:
        return f"{commit}?"
    return f"{commit}+" if changed else commit


def _told_source() -> str | None:
    """What `SOURCE_VARIABLE` says, which goes into every report and so may be nothing but a commit."""
    told = os.environ.get(SOURCE_VARIABLE)
    if told and not re.fullmatch(r"[0-9a-f]{40}[+?]?", told):
        raise UsageError(
            f"{SOURCE_VARIABLE}: expected the 40 hex digits of a commit, '+' behind them where it had changes, got "
            f"{told}: set it to what `git rev-parse HEAD` prints where the copy was made"
        )
    return told or None


def _ask(command: list[str]) -> str | None:
    """What a command prints, or None where it fails or takes longer than `GIT_TIMEOUT_S`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=GIT_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
