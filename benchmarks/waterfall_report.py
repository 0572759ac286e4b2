"""What `bench waterfall` leaves behind: where the time of a request goes, and how well that adds up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from ..model.card import StrictModel
from ..model.errors import UsageError
from .report import Report, Statistics, first_complaint, read_bytes
from .timing import NS_PER_MS
from .waterfall import WIRE_BACK, WIRE_OUT, Breakdown, StepStatistics

#: How far the parts may be from the whole, and the trace from Triton's own counters, as a share.
TOLERANCE = 0.05
#: No smaller difference between trace and counters is ever called one.
LEAST_DIFFERENCE_MS = 0.1


class WaterfallCase(StrictModel):
    """Requests of one model of a server, so many at once."""

    kind: Literal["waterfall"] = "waterfall"
    model: str
    concurrency: Annotated[int, Field(ge=1)]
    batch: Annotated[int, Field(ge=1)]


class Part(StrictModel):
    """One part of a request on its critical path: the mean over all requests, and the share of the whole, 0..1."""

    name: str
    mean_ms: float
    share: float


class StepRecord(StrictModel):
    """One step, as means over all requests.

    ``start_ms`` is how long after the request's start it was asked for; it then waited ``queue_ms``, copied its input,
    computed and copied its output. ``on_path`` is the share of requests whose end waited for it, 0..1.
    ``counted_ms`` is queue, copies and computing together by Triton's statistics, which know nothing of the trace,
    ``traced_ms`` the same by the trace over the same requests, and ``agrees`` says whether the two are the same within
    the tolerance, or a tenth of a millisecond.
    """

    model: str
    start_ms: float
    queue_ms: float
    input_ms: float
    compute_ms: float
    output_ms: float
    on_path: float
    counted_ms: float | None
    traced_ms: float | None
    agrees: bool | None


class Reconciliation(StrictModel):
    """How well the parts add up to what the client saw.

    Attributes:
        requests: how many were made.
        traced: how many of them are in the server's trace whole.
        accounted: the sum of all parts over the sum of what the client saw, 1 where nothing is missing.
        worst: the largest difference of a single request, as a share of it.
        one_clock: client and server read one clock. Where they do not, the wire is what is left over, and the sum says
            nothing about it.
        adds_up: nearly all requests are traced and the parts come to the whole within the tolerance.
    """

    requests: int
    traced: int
    accounted: float
    worst: float
    one_clock: bool
    tolerance: float
    adds_up: bool


class Tax(StrictModel):
    """What serving costs against the same chain in one process, in the same run, at the same concurrency.

    ``untraced_ms`` is the served median without a trace: what the trace itself costs is the difference to the median
    of the traced requests. ``tax_ms`` is untraced served less in process.
    """

    in_process: str
    in_process_ms: float
    untraced_ms: float
    tax_ms: float
    tax_share: float


class WaterfallResult(StrictModel):
    """One concurrency: the whole as the client saw it with the trace on, its parts, its steps, and the sum."""

    case: WaterfallCase
    protocol_sha256: str
    whole_ns: tuple[int, ...]
    statistics: Statistics
    mean_ms: float
    parts: tuple[Part, ...]
    steps: tuple[StepRecord, ...]
    reconciliation: Reconciliation
    tax: Tax | None
    #: How often each failure came, traced, untraced and in process; failed requests are in no figure.
    errors: Annotated[dict[str, int], Field(default_factory=dict)]
    warnings: tuple[str, ...]


class WaterfallReport(Report):
    """What `bench waterfall` measured, a result a concurrency."""

    results: tuple[WaterfallResult, ...]


def mean_parts(breakdowns: Sequence[Breakdown]) -> tuple[Part, ...]:
    """Every part in the order in which requests pass through them; a part off a request's path took it no time."""
    steps = dict.fromkeys(name for each in breakdowns for name in each.steps)
    names = list(dict.fromkeys(name for each in breakdowns for name in each.parts))
    first = next(place for place, name in enumerate(names) if name in steps)
    # What is on one request's path and not on the next one's still has its place among the steps.
    ordered = [*names[:first], *(name for name in steps if name in names)]
    ordered += [name for name in names[first:] if name not in steps]
    whole = sum(each.whole_ns for each in breakdowns)
    totals = {name: sum(each.parts.get(name, 0) for each in breakdowns) for name in ordered}
    return tuple(
        Part(name=name, mean_ms=total / len(breakdowns) / NS_PER_MS, share=total / whole)
        for name, total in totals.items()
    )


def step_records(
    breakdowns: Sequence[Breakdown],
    *,
    traced: Mapping[str, StepStatistics],
    counted: Mapping[str, StepStatistics],
    tolerance: float = TOLERANCE,
) -> tuple[StepRecord, ...]:
    """The steps in the order in which they are asked for.

    Args:
        traced: what the trace comes to, by step.
        counted: what Triton's own counters came to meanwhile.
    """

    def mean(values: Sequence[int]) -> float:
        return float(np.mean(values)) / NS_PER_MS

    found: list[StepRecord] = []
    for model in dict.fromkeys(name for each in breakdowns for name in each.steps):
        times = [each.steps[model] for each in breakdowns if model in each.steps]
        queue, inputs, compute, output = (
            mean([getattr(each, name) for each in times])
            for name in ("queue_ns", "input_ns", "compute_ns", "output_ns")
        )
        counted_ms, traced_ms = (
            own.mean_ms if (own := source.get(model)) and own.count else None for source in (counted, traced)
        )
        found.append(
            StepRecord(
                model=model,
                start_ms=mean([each.asked_ns for each in times]),
                queue_ms=queue,
                input_ms=inputs,
                compute_ms=compute,
                output_ms=output,
                on_path=sum(each.on_path for each in times) / len(breakdowns),
                counted_ms=counted_ms,
                traced_ms=traced_ms,
                agrees=_agree(traced_ms, counted_ms, tolerance),
            )
        )
    return tuple(sorted(found, key=lambda step: step.start_ms))


def _agree(traced_ms: float | None, counted_ms: float | None, tolerance: float) -> bool | None:
    if traced_ms is None or counted_ms is None:
        return None
    return abs(traced_ms - counted_ms) <= max(tolerance * counted_ms, LEAST_DIFFERENCE_MS)


def reconcile(
    breakdowns: Sequence[Breakdown], requests: int, *, one_clock: bool, tolerance: float = TOLERANCE
) -> Reconciliation:
    """Hold the parts against the whole; ``breakdowns`` are of the requests that were traced, at least one."""
    accounted = sum(each.accounted_ns for each in breakdowns) / sum(each.whole_ns for each in breakdowns)
    return Reconciliation(
        requests=requests,
        traced=len(breakdowns),
        accounted=accounted,
        worst=max(abs(each.accounted_ns / each.whole_ns - 1) for each in breakdowns),
        one_clock=one_clock,
        tolerance=tolerance,
        adds_up=abs(accounted - 1) <= tolerance and len(breakdowns) >= (1 - tolerance) * requests,
    )


def warnings_of(steps: Sequence[StepRecord], sums: Reconciliation) -> tuple[str, ...]:
    """What a reader must know before believing the parts, one sentence each."""
    found: list[str] = []
    if not sums.adds_up:
        found.append(
            f"does not add up: the parts come to {sums.accounted:.1%} of what the client saw, "
            f"{sums.traced} of {sums.requests} requests traced"
        )
    if not sums.one_clock:
        found.append(
            f"two clocks: '{WIRE_OUT}' is both ways and whatever is left over, '{WIRE_BACK}' is not told apart"
        )
    apart = [step for step in steps if step.agrees is False]
    if apart:
        names = ", ".join(step.model for step in apart)
        found.append(f"trace and statistics disagree by more than {sums.tolerance:.0%} on {names}")
    return tuple(found)


def read_waterfall(path: Path) -> WaterfallReport:
    """Read what `bench waterfall --out` wrote.

    Raises:
        UsageError: no such file, or not such a report.
    """
    try:
        return WaterfallReport.model_validate_json(read_bytes(path, "waterfall"))
    except ValidationError as error:
        raise UsageError(f"{path} is not a report of `coronanet bench waterfall`: {first_complaint(error)}") from None
