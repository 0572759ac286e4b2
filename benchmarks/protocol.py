"""What was measured and how: the record without which a number means nothing.

Nothing here names a host, a user or a folder.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ..engines.bundle import Bundle, Precision
from ..engines.machine import Machine, installed_version, observe_machine
from ..engines.open import Backend
from ..engines.places import ROOT
from ..model.card import StrictModel
from ..model.tasks import TaskName
from .load import LoadPlan
from .timing import Plan, WarmUpRule

#: Packages whose version can change a result.
PACKAGES = (
    "coronanet",
    "numpy",
    "nvidia-pytriton",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "torch",
    "tritonclient",
)
Target = Literal["served", "in_process"]


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
    """One network on one backend in one precision; ``threads`` None leaves the number to the backend."""

    kind: Literal["engine"] = "engine"
    task: TaskName
    backend: Backend
    precision: Precision
    batch: Annotated[int, Field(ge=1)]
    threads: int | None


class LoadCase(StrictModel):
    """One target under closed-loop load; ``threads`` are those of one inference.

    ``engines`` says what runs each network of a chain in process; what runs behind a server only the server knows.
    """

    kind: Literal["load"] = "load"
    target: Target
    model: str
    concurrency: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]
    threads: int | None
    engines: dict[str, str]


class Method(StrictModel):
    """How the samples were taken: what the clock runs around, what it leaves out, and in which order."""

    verb: Literal["bench engines", "bench serving"]
    measures: str
    transfers: str
    order: str
    input: InputRecord
    warm_up: WarmUpRule
    plan: Plan | LoadPlan


class Software(StrictModel):
    """What ran: ``source`` is the commit of a checkout, ``+`` where it had changes, else the version.

    ``bundles`` gives the hash of each bundle's manifest, by task.
    """

    source: str
    python: str
    packages: dict[str, str]
    bundles: dict[str, str]


class Moment(StrictModel):
    """When, and how busy the machine was already: the load average of the last minute, where the system tells."""

    started: str
    load_average: float | None


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
    return Protocol(method=method, software=observe_software(bundles), machine=observe_machine(), moment=_moment())


def observe_software(bundles: Mapping[TaskName, Bundle]) -> Software:
    return Software(
        source=_source(ROOT),
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := installed_version(name)) is not None},
        bundles={name: bundle.sha256 for name, bundle in sorted(bundles.items())},
    )


def _moment() -> Moment:
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Moment(started=datetime.now(UTC).isoformat(timespec="seconds"), load_average=load)


def _source(root: Path) -> str:
    version = installed_version("coronanet") or "unknown"
    git = shutil.which("git")
    if git is None or not (root / ".git").exists():
        return version
    commit = _ask([git, "-C", str(root), "rev-parse", "HEAD"])
    if commit is None:
        return version
    changed = _ask([git, "-C", str(root), "status", "--porcelain"])
    return commit + ("+" if changed else "")


def _ask(command: list[str]) -> str | None:
    """What a command prints, or None where it fails or takes longer than ten seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
