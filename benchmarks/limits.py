"""What a sweep says about a model: where more load stops helping, and how much it can do within a latency budget."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile

#: From this share of the largest throughput on, more load brings latency and little else.
NEARLY_ALL = 0.95


@dataclass(frozen=True)
class Point:
    """One load of a sweep.

    Attributes:
        load: streams of a closed loop, or requests a second of an open one.
        throughput_per_s: slices answered a second.
        latency_ms: the percentile that the budget is of.
        kept_up: everything asked for was answered; an open loop also as fast as it was asked.
    """

    load: float
    throughput_per_s: float
    latency_ms: float
    kept_up: bool = True


def closed_knee(points: Sequence[Point]) -> Point | None:
    """The fewest streams with nearly all of the largest throughput; None where nothing was answered."""
    most = max((point.throughput_per_s for point in points), default=0.0)
    if not most:
        return None
    enough = [point for point in points if point.throughput_per_s >= NEARLY_ALL * most]
    return min(enough, key=lambda point: point.load)


def open_knee(points: Sequence[Point]) -> Point | None:
    """The highest rate that the model kept up with, as with every lower one; None where the lowest was too much."""
    good = _until_bad(points, lambda point: point.kept_up)
    return good[-1] if good else None


def within_budget(points: Sequence[Point], budget_ms: float) -> Point | None:
    """The load with the largest throughput whose latency, as that of every smaller load, keeps within the budget.

    None where the smallest does not.
    """
    good = _until_bad(points, lambda point: point.kept_up and point.latency_ms <= budget_ms)
    return max(good, key=lambda point: point.throughput_per_s, default=None)


def _until_bad(points: Sequence[Point], is_good: Callable[[Point], bool]) -> list[Point]:
    """The loads below the first bad one, in order: a lucky run above it proves nothing."""
    return list(takewhile(is_good, sorted(points, key=lambda point: point.load)))


def next_rate(points: Sequence[Point], budget_ms: float) -> float:
    """The rate to try next for the highest one within the budget: half way between the best good and the first bad one.

    Where all are good half as much again, where none is half of the lowest.
    """
    good = [point.load for point in points if point.kept_up and point.latency_ms <= budget_ms]
    bad = [point.load for point in points if point.load not in good]
    # A lucky run above a bad one proves nothing.
    best = max((load for load in good if not bad or load < min(bad)), default=0.0)
    return (best + min(bad)) / 2 if bad else 1.5 * best
