"""What a benchmark leaves behind: raw samples, the statistics derived from them, and the protocol, as one JSON file."""

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError

from ..engines.bundle import Verdict
from ..model.card import StrictModel, explain
from ..model.errors import UsageError
from .load import Load
from .protocol import EngineCase, LoadCase, Protocol
from .timing import Samples, WarmUp

NOTICE = "Research software, not a medical device. Absolute times are of this machine; trust the ratios."
UNITS = {
    "_ns": "nanoseconds",
    "_ms": "milliseconds",
    "_s": "seconds",
    "_per_s": "slices a second",
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


class EngineResult(StrictModel):
    """One engine's raw durations in the order measured; ``file_bytes`` is the size of its network's ONNX file.

    ``chosen`` says that `auto` runs this task so on this machine.
    """

    case: EngineCase
    protocol_sha256: str
    file_bytes: int
    parity: Parity | None
    chosen: bool
    warm_up_ns: tuple[int, ...]
    durations_ns: tuple[int, ...]
    statistics: Statistics
    warnings: tuple[str, ...]


class BurstRecord(StrictModel):
    """One burst of load: the latencies of the answered requests, and how many failed."""

    wall_ns: int
    latencies_ns: tuple[int, ...]
    failed: int


class LoadResult(StrictModel):
    """One target's bursts; ``errors`` counts failures by message; no statistics where nothing was answered."""

    case: LoadCase
    protocol_sha256: str
    warm_up_ns: tuple[int, ...]
    bursts: tuple[BurstRecord, ...]
    requests: int
    errors: dict[str, int]
    statistics: Statistics | None
    warnings: tuple[str, ...]


class Skipped(StrictModel):
    """What was not measured, and why."""

    what: str
    reason: str


class Agreement(StrictModel):
    """One output of the served ensemble against the same chain in process, on the same input.

    ``equal_share`` is the share of equal labels, 0..1, of a mask; ``max_difference`` is of a probability.
    """

    output: str
    equal_share: float | None
    max_difference: float | None


class Ratio(StrictModel):
    """Throughput served at a concurrency, over the best in process: the median of the rounds, and their extremes."""

    concurrency: int
    against: str
    median: float
    lowest: float
    highest: float


class _Report(StrictModel):
    schema_version: Literal[1] = 1
    notice: str = NOTICE
    units: dict[str, str] = Field(default_factory=lambda: dict(UNITS))
    protocol: Protocol

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"


class EngineReport(_Report):
    """What `bench engines` measured."""

    results: tuple[EngineResult, ...]
    skipped: tuple[Skipped, ...]


class ServingReport(_Report):
    """What `bench serving` measured."""

    results: tuple[LoadResult, ...]
    agreement: tuple[Agreement, ...]
    ratios: tuple[Ratio, ...]


def load_result(
    case: LoadCase, protocol: Protocol, warm_up: WarmUp, load: Load, *, conceal: str | None = None
) -> LoadResult:
    """The record of one target under load; ``conceal``, the server's address, is left out of every message."""
    samples = load.samples
    errors = Counter[str]()
    for message, count in load.errors.items():
        errors[message.replace(conceal, "ADDRESS") if conceal else message] += count
    return LoadResult(
        case=case,
        protocol_sha256=protocol.sha256(case),
        warm_up_ns=warm_up.durations_ns,
        bursts=tuple(
            BurstRecord(wall_ns=block.wall_ns, latencies_ns=block.latencies_ns, failed=len(block.errors))
            for block in load.blocks
        ),
        requests=load.requests,
        errors=dict(errors),
        statistics=None if samples is None else Statistics.of(samples, load.throughput_per_s),
        warnings=warm_up.warnings + load.warnings,
    )


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UsageError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}: pass --out FILE in a folder of yours") from None
    work = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        work.chmod(0o644)
        work.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}: pass --out FILE in a folder of yours") from None
    finally:
        work.unlink(missing_ok=True)


def read_engines(path: Path) -> EngineReport:
    """Read what `bench engines --out` wrote.

    Raises:
        UsageError: no such file, or not such a report.
    """
    try:
        return EngineReport.model_validate_json(_read(path, "engines"))
    except ValidationError as error:
        raise UsageError(f"{path} is not a report of `coronanet bench engines`: {_first(error)}") from None


def read_serving(path: Path) -> ServingReport:
    """Read what `bench serving --out` wrote.

    Raises:
        UsageError: no such file, or not such a report.
    """
    try:
        return ServingReport.model_validate_json(_read(path, "serving"))
    except ValidationError as error:
        raise UsageError(f"{path} is not a report of `coronanet bench serving`: {_first(error)}") from None


def _read(path: Path, verb: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}: write it with `coronanet bench {verb} --out {path}`"
        ) from None


def _first(error: ValidationError) -> str:
    """The first of what may be hundreds of complaints about a file of another kind."""
    return explain(error).partition("; ")[0]
