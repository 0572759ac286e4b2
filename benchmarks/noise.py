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

Verdict = Literal["faster", "slower", "noise"]
Floats = NDArray[np.float64]

#: No smaller difference is ever called one: two openings of one engine differ by as much, by where their memory lies.
LEAST_FLOOR = 0.02
CONFIDENCE = 0.95
RESAMPLES = 2000
#: Fewer rounds than this say nothing about their own noise.
LEAST_ROUNDS = 4
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A ratio of durations with its interval, and the floor (a share) that the whole interval must lie beyond."""

    ratio: float
    low: float
    high: float
    floor: float

    @property
    def verdict(self) -> Verdict:
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


def paired(a: Floats, b: Floats, floor: float) -> Estimate:
    """B over A where both were measured in the same rounds: a disturbance of a round meets both and cancels.

    Args:
        a, b: logarithms of the durations, ``[rounds]``.
        floor: what an A/A comparison in the same run showed; `LEAST_FLOOR` where that is larger.
    """
    shared = min(len(a), len(b))
    difference = b[:shared] - a[:shared]
    return _estimate(float(middle(difference)), bootstrap(difference, np.random.default_rng(SEED)), floor)


def apart(a: Floats, b: Floats, floor: float) -> Estimate:
    """B over A where each comes from a run of its own; arguments as in `paired`, the two may differ in length."""
    rng = np.random.default_rng(SEED)
    return _estimate(float(middle(b) - middle(a)), bootstrap(b, rng) - bootstrap(a, rng), floor)


def _estimate(difference: float, resampled: Floats, floor: float) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Estimate(float(np.exp(difference)), float(np.exp(low)), float(np.exp(high)), max(floor, LEAST_FLOOR))
