"""Is a difference real? Ratios of rounds, their bootstrap interval, and the difference that no change makes.

Durations of one machine are neither independent nor normal: clocks drift, neighbours come and go, a call now and then
takes three times as long. So a round counts as one value (the median of its calls), rounds are resampled in blocks
whose neighbours stay together (the stationary bootstrap of Politis and Romano, JASA 89:1303, 1994), and their middle
half is averaged (the interquartile mean), which a few bad rounds do not move.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["faster", "slower", "noise", "not judged"]
Floats = NDArray[np.float64]

#: No smaller difference is ever called one: two openings of one engine differ by as much, by where their memory lies.
LEAST_FLOOR = 0.02
#: The same for two runs that were not interleaved, of which a yardstick says how the machine moved between them, and
#: for two of which nothing does.
LEAST_FLOOR_APART = 0.03
LEAST_FLOOR_UNKNOWN = 0.1
CONFIDENCE = 0.95
RESAMPLES = 1000
#: Fewer rounds than this say nothing about their own noise, and nothing is called faster or slower by them.
LEAST_ROUNDS = 4
#: From so many rounds on two separate runs find a difference of a tenth in 95 of 100; with half of them in 90 to 99.
ROUNDS_FOR_A_TENTH = 40
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A ratio of durations with its interval, and the floor (a share) that the whole interval must lie beyond.

    ``rounds`` is how many it rests on, of the side that has fewer.
    """

    ratio: float
    low: float
    high: float
    floor: float
    rounds: int

    @property
    def verdict(self) -> Verdict:
        if self.rounds < LEAST_ROUNDS:
            return "not judged"
        if self.low > 1 + self.floor:
            return "slower"
        return "faster" if self.high < 1 / (1 + self.floor) else "noise"


def log_medians(rounds_ns: Sequence[Sequence[int]]) -> Floats:
    """The logarithm of each round's median, float64 ``[rounds]``."""
    return np.log([float(np.median(one)) for one in rounds_ns])


def middle(values: Floats) -> Floats:
    """The interquartile mean along the last axis: of the values without a quarter (rounded down) at either end."""
    count = values.shape[-1]
    cut = count // 4
    return np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1)


def resample(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices int64 ``[RESAMPLES, count]`` of rounds: blocks of random length, around the end to the beginning.

    A block is the cube root of the number of rounds long on average, which is the order that Politis and White
    (Econometric Reviews 23:53, 2004) give, and at least two.
    """
    mean_length = max(2.0, count ** (1 / 3))
    begins = rng.random((RESAMPLES, count)) < 1 / mean_length
    begins[:, 0] = True
    starts = rng.integers(0, count, (RESAMPLES, count))
    places = np.arange(count)
    last = np.maximum.accumulate(np.where(begins, places, 0), axis=1)
    return (np.take_along_axis(starts, last, axis=1) + places - last) % count


def bootstrap(values: Floats, rng: np.random.Generator) -> Floats:
    """The interquartile mean of ``[rounds]`` values in every resample, float64 ``[RESAMPLES]``."""
    return middle(values[resample(len(values), rng)])


def halves(values: Floats) -> float:
    """The largest difference between parts of one series: first half and second, even rounds and odd, as a share."""
    half = len(values) // 2
    pairs = ((values[:half], values[half:]), (values[::2], values[1::2]))
    return float(np.expm1(max(abs(float(middle(one) - middle(other))) for one, other in pairs)))


def noise_floor(rounds_ns: Sequence[Sequence[int]]) -> float | None:
    """The share by which parts of one candidate's rounds differ; None where they are too few to say."""
    return halves(log_medians(rounds_ns)) if len(rounds_ns) >= LEAST_ROUNDS else None


def paired(a: Sequence[Floats], b: Sequence[Floats]) -> Estimate:
    """B over A where all were measured in the same rounds: a disturbance of a round meets all and cancels.

    The floor is what openings of the very same thing differ by.

    Args:
        a, b: logarithms of the durations of every opening of A and of B, each ``[rounds]``.
    """
    shared = min(len(one) for one in (*a, *b))
    one, other = (np.stack([each[:shared] for each in openings]) for openings in (a, b))
    same = [float(middle(each - openings[0])) for openings in (one, other) for each in openings[1:]]
    floor = max([LEAST_FLOOR, *(float(np.expm1(abs(each))) for each in same)])
    difference = other.mean(axis=0) - one.mean(axis=0)
    return _estimate(float(middle(difference)), bootstrap(difference, np.random.default_rng(SEED)), floor, shared)


@dataclass(frozen=True)
class Run:
    """One case in one run, logarithms ``[rounds]``, and the yardstick of the same rounds, where there was one."""

    case: Floats
    yardstick: Floats | None


def apart(a: Run, b: Run) -> Estimate:
    """B over A where each comes from a run of its own, both divided by their yardstick.

    What the yardstick moved by between the runs is the machine's doing. A network does not follow it exactly, so half
    of that move is in the floor. So is half of what the two halves of either run differ by, which is how far a drift as
    slow as the run bends its mean.
    """
    with_yardstick = a.yardstick is not None and b.yardstick is not None
    one, other = (_relative(run) if with_yardstick else run.case for run in (a, b))
    bends = [halves(each) / 2 for each in (one, other) if len(each) >= LEAST_ROUNDS]
    if a.yardstick is not None and b.yardstick is not None:
        moved = abs(float(middle(b.yardstick) - middle(a.yardstick)))
        floor = max([LEAST_FLOOR_APART, float(np.expm1(moved / 2)), *bends])
    else:
        floor = max([LEAST_FLOOR_UNKNOWN, *bends])
    rng = np.random.default_rng(SEED)
    difference = float(middle(other) - middle(one))
    return _estimate(difference, bootstrap(other, rng) - bootstrap(one, rng), floor, min(len(one), len(other)))


def _relative(run: Run) -> Floats:
    assert run.yardstick is not None
    shared = min(len(run.case), len(run.yardstick))
    return run.case[:shared] - run.yardstick[:shared]


def _estimate(difference: float, resampled: Floats, floor: float, rounds: int) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(float(np.exp(difference)), float(np.exp(low)), float(np.exp(high)), floor, rounds)
