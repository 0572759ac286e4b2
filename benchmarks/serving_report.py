"""What `bench serving` leaves behind: every burst of load on every target, and what follows from them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ..model.card import StrictModel
from ..model.errors import UsageError
from .load import Load
from .protocol import LoadCase, Protocol, Target
from .report import Report, Statistics, first_complaint, read_bytes
from .timing import NS_PER_S, Samples, WarmUp

Percentile = Literal[50, 90, 95, 99]


class RateCase(StrictModel):
    """One model of a server under open-loop load: ``rate_per_s`` requests a second, each of ``batch`` slices."""

    kind: Literal["rate"] = "rate"
    target: Target
    model: str
    rate_per_s: Annotated[float, Field(gt=0)]
    batch: Annotated[int, Field(ge=1)]


class Budget(StrictModel):
    """How long an answer may take: so many of a hundred within so many milliseconds."""

    latency_ms: Annotated[float, Field(gt=0)]
    percentile: Percentile = 99


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


class RateBurst(BurstRecord):
    """One burst of an open loop; latencies count from the moment that the schedule meant.

    ``schedule_ns`` is how long the schedule is, ``delays_ns`` how late each request left, ``unsent`` how many did not.
    """

    schedule_ns: int
    delays_ns: tuple[int, ...]
    unsent: int


class RateResult(StrictModel):
    """One rate's bursts.

    ``offered_per_s`` is what the schedule asked for, in slices a second. ``kept_up`` says that all of it was answered,
    in no more time than it was asked in, a twentieth allowed. ``delay_p99_ms`` is how late requests left: what of the
    latency is this client's own doing where fewer than all of its streams were in use.
    """

    case: RateCase
    protocol_sha256: str
    bursts: tuple[RateBurst, ...]
    requests: int
    errors: dict[str, int]
    statistics: Statistics | None
    offered_per_s: float
    kept_up: bool
    delay_p99_ms: float | None
    warnings: tuple[str, ...]


class Agreement(StrictModel):
    """One output of the served ensemble against the same chain in process, on the same input.

    ``equal_share`` is the share of equal labels, 0..1, of a mask; ``max_difference`` is of a probability.
    """

    output: str
    equal_share: float | None
    max_difference: float | None


class Ratio(StrictModel):
    """A served model at a concurrency over something else: the median of the rounds, and their extremes."""

    model: str
    concurrency: int
    quantity: Literal["throughput", "p50"]
    against: str
    median: float
    lowest: float
    highest: float


class Limits(StrictModel):
    """What a sweep of one served model came to.

    ``loop`` says what ``knee`` and ``best`` count: streams of a closed loop, or requests a second of an open one.
    The knee of a closed loop is the fewest streams with 95 % of the largest throughput, that of an open loop the
    highest rate that was kept up with; ``best`` is the load with the largest throughput within the budget. None where
    there is no such load, or no budget.
    """

    model: str
    loop: Literal["closed", "open"]
    peak_per_s: float
    knee: float | None
    knee_per_s: float | None
    knee_ms: float | None
    best: float | None
    best_per_s: float | None
    best_ms: float | None


class ServingReport(Report):
    """What `bench serving` measured; ``results`` of closed loops, ``rates`` of open ones."""

    budget: Budget | None = None
    results: tuple[LoadResult, ...]
    rates: tuple[RateResult, ...] = ()
    limits: tuple[Limits, ...] = ()
    agreement: tuple[Agreement, ...]
    ratios: tuple[Ratio, ...]


def load_result(
    case: LoadCase, protocol: Protocol, warm_up: WarmUp, load: Load, *, conceal: str | None = None
) -> LoadResult:
    """The record of one target under load; ``conceal``, the server's address, is left out of every message."""
    samples = load.samples
    return LoadResult(
        case=case,
        protocol_sha256=protocol.sha256(case),
        warm_up_ns=warm_up.durations_ns,
        bursts=tuple(
            BurstRecord(wall_ns=block.wall_ns, latencies_ns=block.latencies_ns, failed=len(block.errors))
            for block in load.blocks
        ),
        requests=load.requests,
        errors=conceal_address(load.errors, conceal),
        statistics=None if samples is None else Statistics.of(samples, load.throughput_per_s),
        warnings=warm_up.warnings + load.warnings,
    )


def rate_result(case: RateCase, protocol: Protocol, load: Load, *, conceal: str | None = None) -> RateResult:
    """The record of one rate; ``conceal`` as for `load_result`."""
    samples = load.samples
    delays = tuple(delay for block in load.blocks for delay in block.delays_ns)
    asked_ns = sum(block.length_ns for block in load.blocks)
    return RateResult(
        case=case,
        protocol_sha256=protocol.sha256(case),
        bursts=tuple(
            RateBurst(
                wall_ns=block.wall_ns,
                latencies_ns=block.latencies_ns,
                failed=len(block.errors),
                schedule_ns=block.length_ns,
                delays_ns=block.delays_ns,
                unsent=block.unsent,
            )
            for block in load.blocks
        ),
        requests=load.requests,
        errors=conceal_address(load.errors, conceal),
        statistics=None if samples is None else Statistics.of(samples, load.throughput_per_s),
        offered_per_s=load.items * load.requests * NS_PER_S / max(1, asked_ns),
        kept_up=load.kept_up,
        delay_p99_ms=Samples(delays).percentile_ms(99) if delays else None,
        warnings=load.warnings,
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


def percentile_ms(statistics: Statistics, percentile: Percentile) -> float:
    """One of the percentiles that statistics have."""
    by_name: Mapping[Percentile, float] = {
        50: statistics.p50_ms,
        90: statistics.p90_ms,
        95: statistics.p95_ms,
        99: statistics.p99_ms,
    }
    return by_name[percentile]


def conceal_address(messages: Mapping[str, int], address: str | None) -> dict[str, int]:
    """How often each failure came, with ``ADDRESS`` in place of a server's: a report may be published."""
    errors = Counter[str]()
    for message, count in messages.items():
        errors[message.replace(address, "ADDRESS") if address else message] += count
    return dict(errors)
