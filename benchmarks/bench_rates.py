"""Request rates: a served model in an open loop, at rates in turns, and the highest rate within a latency budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..engines.base import Engine, Tensors
from .limits import Point, next_rate
from .load import Block, Load, LoadPlan, Streams
from .serving_report import Budget, RateCase
from .timing import rounds

Auto = Literal["auto"]
#: Where "auto" looks: shares of what closed loops came to.
SHARES = (0.25, 0.5, 0.7, 0.85, 1.0)
#: How often the interval that the highest rate within a budget lies in is halved.
SEARCH_STEPS = 4


@dataclass(frozen=True)
class RateTarget:
    """A served model; ``peak_per_s`` is the largest number of requests a second that a closed loop came to."""

    model: str
    open_engine: Callable[[], Engine]
    feeds: Tensors
    batch: int
    peak_per_s: float


def count_rates(rates: Sequence[float] | Auto, budget: Budget | None) -> int:
    """How many rates `measure_rates` will measure."""
    return len(SHARES) + (SEARCH_STEPS if budget else 0) if rates == "auto" else len(rates)


def measure_rates(
    target: RateTarget,
    rates: Sequence[float] | Auto,
    plan: LoadPlan,
    budget: Budget | None,
    tell: Callable[[str], object],
) -> list[tuple[RateCase, Load]]:
    """The rates in turns, then, with "auto" and a budget, some more between the last good one and the first bad one."""
    assert plan.arrivals is not None
    asked = [share * target.peak_per_s for share in SHARES] if rates == "auto" else list(rates)
    with Streams(target.open_engine, plan.arrivals.streams, target.feeds) as streams:
        found = _in_turns(streams, target, asked, plan, tell)
        for _ in range(SEARCH_STEPS if budget and rates == "auto" else 0):
            assert budget is not None
            rate = next_rate([_point(case, load, budget) for case, load in found], budget.latency_ms)
            found += _in_turns(streams, target, [rate], plan, tell)
    return sorted(found, key=lambda pair: pair[0].rate_per_s)


def _in_turns(
    streams: Streams,
    target: RateTarget,
    rates: Sequence[float],
    plan: LoadPlan,
    tell: Callable[[str], object],
) -> list[tuple[RateCase, Load]]:
    assert plan.arrivals is not None
    arrivals = plan.arrivals
    blocks: dict[float, list[Block]] = {rate: [] for rate in rates}
    for number, order in enumerate(rounds(list(blocks), plan.rounds, float("inf"))):
        for rate in order:
            tell(f"{target.model}, {rate:.3g} requests a second, round {number + 1} of {plan.rounds}")
            schedule = arrivals.schedule(rate, number, plan.rounds)
            blocks[rate].append(streams.play(schedule, arrivals.seconds / plan.rounds))
    return [
        (
            RateCase(target="served", model=target.model, rate_per_s=rate, batch=target.batch),
            Load(tuple(own), streams.concurrency, target.batch),
        )
        for rate, own in blocks.items()
    ]


def _point(case: RateCase, load: Load, budget: Budget) -> Point:
    samples = load.samples
    latency_ms = samples.percentile_ms(budget.percentile) if samples else float("inf")
    return Point(case.rate_per_s, load.throughput_per_s, latency_ms, load.kept_up)
