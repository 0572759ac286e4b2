"""What a benchmark leaves behind: raw samples, the statistics derived from them, and the protocol, as one JSON file."""

import os
import tempfile
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, ValidationError

from ..engines.bundle import Precision, Verdict
from ..model.card import StrictModel, explain
from ..model.errors import UsageError
from ..model.tasks import TaskName
from .protocol import EngineCase, LoadCase, PeerCase, Protocol
from .timing import Rounds, Samples

NOTICE = "Research software, not a medical device. Absolute times are of this machine; trust the ratios."
SCHEMA_VERSION: Final = 2
#: By how a field's name ends; of two that fit, the longer one.
UNITS = {
    "_ns": "nanoseconds",
    "_ms": "milliseconds",
    "_s": "seconds",
    "_j": "joules",
    "_w": "watts",
    "_mhz": "megahertz",
    "flops": "floating-point (or integer) operations, a multiplication and its addition counted as two",
    "share": "of one",
    "_per_s": "slices a second",
    "rate_per_s": "requests a second",
    "flops_per_s": "operations a second",
    "bytes_per_s": "bytes a second",
    "_bytes": "bytes",
    "spread": "interquartile range as a share of the median",
}


class Statistics(StrictModel):
    """What was derived from the raw samples beside it."""

    count: int
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    max_ms: float
    iqr_ms: float
    spread: float
    throughput_per_s: float

    @classmethod
    def of(cls, samples: Samples, throughput_per_s: float | None = None) -> Self:
        """``throughput_per_s`` is given where several callers shared the time; else it follows from the samples."""
        return cls(
            count=samples.count,
            p50_ms=samples.p50_ms,
            p90_ms=samples.p90_ms,
            p95_ms=samples.p95_ms,
            p99_ms=samples.p99_ms,
            mean_ms=samples.mean_ms,
            min_ms=samples.min_ms,
            max_ms=samples.max_ms,
            iqr_ms=samples.iqr_ms,
            spread=samples.spread,
            throughput_per_s=samples.throughput_per_s if throughput_per_s is None else throughput_per_s,
        )


class Parity(StrictModel):
    """How well the labels agree with the torch reference, 0..1, what the gate said, and who looked."""

    label_agreement: float | None
    verdict: Verdict
    source: Literal["reference", "this machine", "export"]


class Fresh(StrictModel):
    """What a process of its own saw that did nothing but import the backend, load this network and run it.

    ``import_ms`` is the backend's packages, ``load_ms`` the network's file from the page cache to an engine that is
    ready, ``first_ms`` the first inference. ``base_bytes`` is the process's memory before the backend is imported,
    ``peak_bytes`` the most it ever held; ``gpu_bytes`` what the used memory of the whole board grew by meanwhile, which
    is the process's only where nothing else uses that GPU; None where there is none or it does not tell.
    """

    import_ms: float
    load_ms: float
    first_ms: float
    base_bytes: int
    peak_bytes: int
    gpu_bytes: int | None = None


class Stages(StrictModel):
    """A call on a GPU taken apart, with a wait after each stage: copies in, kernels, copies out; nanoseconds of each
    call. The three add up to more than a call takes, by the waits."""

    upload_ns: tuple[int, ...]
    compute_ns: tuple[int, ...]
    download_ns: tuple[int, ...]


class GpuLoad(StrictModel):
    """The GPU in a stretch of calls one after the other, as NVML told of it; None is what it would not tell.

    Energy is of the whole board, at rest or not, over the slices done meanwhile; ``throttles`` held the clocks down.
    """

    seconds: float
    slices: int
    readings: int
    energy_j_per_slice: float | None
    power_w: float | None
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    utilisation_share: float | None
    memory_used_bytes: int | None
    temperature_c: int | None
    throttles: tuple[str, ...]


class LayerBound(StrictModel):
    """One layer of a network under the roof: what it must at least take, and which of the two holds it."""

    name: str
    operator: str
    flops: int
    bytes: int
    bound_ms: float
    limit: Literal["compute", "memory"]


class RooflineRecord(StrictModel):
    """A call under the roof: the sum over its layers of the larger of computing and moving data.

    ``flops`` and ``bytes`` are of all layers, ``compute_bound_ms`` of ``bound_ms`` lies in layers that computing holds.
    ``share`` is ``bound_ms`` over the measured median, on a GPU that of the kernels without the copies: what is left
    is 1 less that. Above 1, the engine did less than
    the graph says: it fused layers, or what one wrote was still in a near cache when the next one read it. ``layers``
    are those with the largest bounds.
    """

    precision: Precision
    flops: int
    bytes: int
    bound_ms: float
    compute_bound_ms: float
    share: float
    layers: tuple[LayerBound, ...]


class MemoryLevel(StrictModel):
    """The best rate of a copy whose source and target together are so large, read and written bytes counted."""

    working_set_bytes: int
    bytes_per_s: float


class Ceilings(StrictModel):
    """What this machine was seen to reach in this run: the best rate of any engine in each precision, and of memory.

    ``flops_per_s`` by precision; ``reached_by`` says what reached it. ``memory`` goes from what caches hold to what
    none does; ``bytes_per_s`` is that last rate.
    """

    device: Literal["cpu", "gpu"]
    flops_per_s: dict[str, float]
    reached_by: dict[str, str]
    bytes_per_s: float
    memory: tuple[MemoryLevel, ...]


class EngineResult(StrictModel):
    """One engine's raw durations, by round and in the order measured; ``file_bytes`` is its network's ONNX file.

    ``chosen`` says that `auto` runs this task so on this machine. ``noise_floor`` is the largest share by which parts
    of these very rounds differ from each other: what an A/A comparison inside this run shows.
    """

    case: EngineCase
    protocol_sha256: str
    file_bytes: int
    parity: Parity | None
    chosen: bool
    warm_up_ns: tuple[int, ...]
    rounds_ns: tuple[tuple[int, ...], ...]
    statistics: Statistics
    noise_floor: float | None
    fresh: Fresh | None = None
    stages: Stages | None = None
    gpu: GpuLoad | None = None
    roofline: RooflineRecord | None = None
    warnings: tuple[str, ...]

    @property
    def rounds(self) -> Rounds:
        return Rounds(self.rounds_ns, self.case.batch)


class PeerResult(StrictModel):
    """One peer, measured in turns with our engines; ``max_difference`` of its logits from the torch reference."""

    case: PeerCase
    protocol_sha256: str
    description: str
    max_difference: float | None
    warm_up_ns: tuple[int, ...]
    rounds_ns: tuple[tuple[int, ...], ...]
    statistics: Statistics
    noise_floor: float | None
    stages: Stages | None = None
    warnings: tuple[str, ...]

    @property
    def rounds(self) -> Rounds:
        return Rounds(self.rounds_ns, self.case.batch)


class Yardstick(StrictModel):
    """A fixed piece of work that no change of ours touches, measured in every round of one task and batch.

    What it differs by between two runs is the machine's doing.
    """

    task: TaskName
    batch: int
    rounds_ns: tuple[tuple[int, ...], ...]

    @property
    def rounds(self) -> Rounds:
        return Rounds(self.rounds_ns)


class Comparison(StrictModel):
    """One case in B over the same case in A: above 1, B takes longer.

    ``low`` and ``high`` bound the 95 % bootstrap interval of ``ratio``. ``noise_floor`` is the share that an A/A
    comparison shows here, which the whole interval must lie beyond before anything is called faster or slower.
    ``relative_to`` says what both were divided by, None where the rounds of both were interleaved or nothing there
    was to divide them by. ``rounds`` is how many the side with fewer has: fewer than 4 are ``not judged``.
    """

    case: EngineCase | PeerCase | LoadCase
    a_p50_ms: float
    b_p50_ms: float
    ratio: float
    low: float
    high: float
    noise_floor: float
    relative_to: str | None
    verdict: Literal["faster", "slower", "noise", "not judged"]
    rounds: int | None = None


class Skipped(StrictModel):
    """What was not measured, and why."""

    what: str
    reason: str


class Document(StrictModel):
    """What every file of the harness has."""

    schema_version: Literal[2] = SCHEMA_VERSION
    notice: str = NOTICE
    units: dict[str, str] = Field(default_factory=lambda: dict(UNITS))

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


class Report(Document):
    """What every measurement has."""

    protocol: Protocol


class EngineReport(Report):
    """What `bench engines` measured.

    ``against`` gives the hash of the bundles that the comparisons call B, by task, where they were measured in turns
    with these; with a baseline the comparisons call the earlier report A. Otherwise there are none.
    """

    against: dict[str, str] | None = None
    results: tuple[EngineResult, ...]
    peers: tuple[PeerResult, ...] = ()
    yardsticks: tuple[Yardstick, ...] = ()
    ceilings: tuple[Ceilings, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    skipped: tuple[Skipped, ...]


class CompareReport(Document):
    """What `bench compare` found; ``varied`` are the fields of the protocol that were allowed to differ and did."""

    a: Protocol
    b: Protocol
    varied: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]


class ProofReport(Report):
    """What `prove` found: the comparisons of a network with itself, and with itself and a ``slowdown`` planted in B.

    ``slowdown`` is a share of each call; ``verdicts`` counts what was called of either.
    """

    slowdown: float
    same: tuple[Comparison, ...]
    planted: tuple[Comparison, ...]
    verdicts: dict[str, dict[str, int]]


def write_text(path: Path, text: str, *, option: str = "--out") -> None:
    """Write a file whole or not at all; ``option`` is what named it, for the error.

    Raises:
        UsageError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}: pass {option} FILE in a folder of yours") from None
    work = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        work.chmod(0o644)
        work.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}: pass {option} FILE in a folder of yours") from None
    finally:
        work.unlink(missing_ok=True)


def read_engines(path: Path) -> EngineReport:
    """Read what `bench engines --out` wrote.

    Raises:
        UsageError: no such file, or not such a report.
    """
    try:
        return EngineReport.model_validate_json(read_bytes(path, "engines"))
    except ValidationError as error:
        raise UsageError(f"{path} is not a report of `coronanet bench engines`: {first_complaint(error)}") from None


def read_bytes(path: Path, verb: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}: write it with `coronanet bench {verb} --out {path}`"
        ) from None


def first_complaint(error: ValidationError) -> str:
    """The first of what may be hundreds of complaints about a file of another kind."""
    return explain(error).partition("; ")[0]
