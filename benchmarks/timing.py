"""Timing in one process: warm up until stable, keep every sample in nanoseconds, derive the statistics from them."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Key = TypeVar("Key")
Call = Callable[[], object]
#: A clock that never runs backwards, in nanoseconds.
Clock = Callable[[], int]

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
#: Interquartile range as a share of the median above which a result says that it is noisy.
WIDE_SPREAD = 0.2


@dataclass(frozen=True)
class Samples:
    """Raw durations of one call in nanoseconds, in the order measured, at least one.

    ``items`` is the number of slices a call handles. Percentiles interpolate linearly between the sorted samples
    (numpy's default, method 7 of Hyndman and Fan 1996).
    """

    durations_ns: tuple[int, ...]
    items: int = 1

    def __post_init__(self) -> None:
        if not self.durations_ns:
            raise ValueError("statistics need at least one sample")

    def percentile_ms(self, percent: float) -> float:
        """The duration in ms that ``percent`` (0..100) of the calls stay within."""
        return float(np.percentile(self.durations_ns, percent)) / NS_PER_MS

    @property
    def count(self) -> int:
        return len(self.durations_ns)

    @property
    def p50_ms(self) -> float:
        return self.percentile_ms(50)

    @property
    def p90_ms(self) -> float:
        return self.percentile_ms(90)

    @property
    def p95_ms(self) -> float:
        return self.percentile_ms(95)

    @property
    def p99_ms(self) -> float:
        return self.percentile_ms(99)

    @property
    def mean_ms(self) -> float:
        return sum(self.durations_ns) / self.count / NS_PER_MS

    @property
    def min_ms(self) -> float:
        return min(self.durations_ns) / NS_PER_MS

    @property
    def max_ms(self) -> float:
        return max(self.durations_ns) / NS_PER_MS

    @property
    def iqr_ms(self) -> float:
        """Interquartile range: the width of the middle half of the samples."""
        return self.percentile_ms(75) - self.percentile_ms(25)

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median."""
        return self.iqr_ms / self.p50_ms if self.p50_ms else 0.0

    @property
    def throughput_per_s(self) -> float:
        """Slices a second of one caller that does nothing else."""
        return self.items * self.count * NS_PER_S / max(1, sum(self.durations_ns))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before believing these numbers, one sentence each."""
        found: list[str] = []
        if self.spread > WIDE_SPREAD:
            found.append(
                f"wide spread: the middle half of the samples spans {self.spread:.0%} of the median, "
                "so small differences are noise"
            )
        if unseen := [percent for percent in (95, 99) if self.count * (100 - percent) < 100]:
            names = " and ".join(f"p{percent}" for percent in unseen)
            found.append(f"few samples: {names} of {self.count} lie close to the largest, raise the repeats")
        return tuple(found)


@dataclass(frozen=True)
class Rounds:
    """What one candidate took when it was measured in turns with others: the counted durations of every round.

    Rounds of candidates that were measured together are comparable one by one: they lie close in time.

    Attributes:
        rounds_ns: nanoseconds of each counted call, by round, in the order measured; no round is empty.
        items: slices a call.
    """

    rounds_ns: tuple[tuple[int, ...], ...]
    items: int = 1

    @property
    def samples(self) -> Samples:
        return Samples(tuple(duration for one in self.rounds_ns for duration in one), self.items)


@dataclass(frozen=True)
class WarmUpRule:
    """Warm-up ends when the medians of two neighbouring windows agree, or at a bound.

    Attributes:
        window: calls a window.
        tolerance: the largest difference of the two medians, as a share of the earlier one.
        most: the largest number of calls.
        limit_s: no call starts after this many seconds.
    """

    window: int = 3
    tolerance: float = 0.1
    most: int = 30
    limit_s: float = 5.0


@dataclass(frozen=True)
class WarmUp:
    """What the warm-up took, in nanoseconds; the first sample is the first inference."""

    durations_ns: tuple[int, ...]
    stable: bool

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.stable:
            return ()
        return (f"not warm: durations had not settled after {len(self.durations_ns)} calls",)


@dataclass(frozen=True)
class Plan:
    """How several candidates are measured against each other.

    Every round each candidate in turn makes ``settle`` calls that are not counted, which let the spinning threads of
    the one before it sleep and bring its own weights back into the cache, and then ``block`` calls that are.

    Attributes:
        repeats: counted calls of each candidate.
        limit_s: about the longest that all of it takes, in seconds. Each candidate has an equal share of it; once its
            calls have lasted that long it makes no other and the rest go on without it.
        least_rounds: rounds that a candidate makes however long they last, with one counted call each once its share is
            spent; a plan of fewer rounds has none to add.
    """

    repeats: int
    limit_s: float
    block: int = 5
    settle: int = 1
    least_rounds: int = 1

    @property
    def rounds(self) -> int:
        return -(-self.repeats // self.block)


def warm_up(call: Call, rule: WarmUpRule, *, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Call until the durations are stable, within the bounds of the rule."""
    durations: list[int] = []
    start = clock()
    while len(durations) < rule.most and (not durations or clock() - start < rule.limit_s * NS_PER_S):
        durations.append(time_call(call, clock))
        if _is_stable(durations, rule):
            return WarmUp(tuple(durations), stable=True)
    return WarmUp(tuple(durations), stable=False)


def _is_stable(durations: Sequence[int], rule: WarmUpRule) -> bool:
    if len(durations) < 2 * rule.window:
        return False
    earlier = float(np.median(durations[-2 * rule.window : -rule.window]))
    later = float(np.median(durations[-rule.window :]))
    return abs(later - earlier) <= rule.tolerance * earlier


def interleave(
    calls: Mapping[Key, Call],
    plan: Plan,
    *,
    items: int = 1,
    lost: Callable[[Key, Exception], object] | None = None,
    clock: Clock = time.perf_counter_ns,
) -> dict[Key, Rounds]:
    """Measure candidates in turns, so that what disturbs the machine disturbs all of them and ratios hold.

    Args:
        calls: what to call, by candidate.
        items: slices a call.
        lost: told of a candidate whose call raised, and what; the others go on without it. Unless given, it is raised.

    Returns:
        The rounds of each that raised nothing: the first ones of all, for a candidate whose share of the time was spent
        before the last.
    """
    taken: dict[Key, list[tuple[int, ...]]] = {key: [] for key in calls}
    left_s = dict.fromkeys(calls, plan.limit_s / len(calls))
    for order in rounds(list(calls), plan.rounds, math.inf, clock=clock):
        for key in order:
            if key not in taken:
                continue
            owed = max(0, plan.least_rounds - len(taken[key]))
            if left_s[key] <= 0 and not owed:
                continue
            start = clock()
            most = min(plan.block, plan.repeats - sum(map(len, taken[key])))
            try:
                # What is left is shared by the rounds that must be, so that the first of them do not take it all.
                block = _turn(calls[key], plan.settle, most, left_s[key] / max(1, owed), clock)
            except Exception as error:  # a runtime that fails raises what it likes
                if lost is None:
                    raise
                lost(key, error)
                del taken[key]
                continue
            taken[key].append(tuple(block))
            left_s[key] -= (clock() - start) / NS_PER_S
    return {key: Rounds(tuple(blocks), items) for key, blocks in taken.items()}


def _turn(call: Call, settle: int, most: int, limit_s: float, clock: Clock) -> list[int]:
    start = clock()
    for _ in range(settle):
        call()
    counted = [time_call(call, clock)]
    while len(counted) < most and clock() - start < limit_s * NS_PER_S:
        counted.append(time_call(call, clock))
    return counted


def rounds(
    keys: Sequence[Key], count: int, limit_s: float, *, clock: Clock = time.perf_counter_ns
) -> Iterator[list[Key]]:
    """Up to ``count`` rounds, each the keys in an order that starts one further on, so that none is always first.

    No round starts after ``limit_s`` seconds, save the first.
    """
    start = clock()
    for turn in range(count):
        if turn and clock() - start >= limit_s * NS_PER_S:
            return
        first = turn % len(keys)
        yield [*keys[first:], *keys[:first]]


def time_call(call: Call, clock: Clock = time.perf_counter_ns) -> int:
    """How long one call takes, in nanoseconds."""
    start = clock()
    call()
    return clock() - start
