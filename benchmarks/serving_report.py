"""What `bench serving` leaves behind: every burst of load on every target, and what follows from them."""

from collections import Counter
from pathlib import Path

from pydantic import ValidationError

from ..model.card import StrictModel
from ..model.errors import UsageError
from .load import Load
from .protocol import LoadCase, Protocol
from .report import Report, Statistics, first_complaint, read_bytes
from .timing import WarmUp


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


class ServingReport(Report):
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


def read_serving(path: Path) -> ServingReport:
    """Read what `bench serving --out` wrote.

    Raises:
        UsageError: no such file, or not such a report.
    """
    try:
        return ServingReport.model_validate_json(read_bytes(path, "serving"))
    except ValidationError as error:
        raise UsageError(f"{path} is not a report of `coronanet bench serving`: {first_complaint(error)}") from None
