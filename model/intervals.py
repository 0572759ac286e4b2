"""Bootstrap intervals: what a score would have been on other patients of the same kind (Efron 1979).

A statistic here is a function of weights: how often each item (an image) was drawn. So thousands of resamples are one
matrix product, and every score of a set is taken on the same resamples. Items of one group (a patient) are drawn
together, because they are not independent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import CALIBRATION_BINS, calibration_bin, pairwise_wins

Weights = NDArray[np.float64]
#: Weights ``[B, N]`` of N items in B resamples to the score of each resample ``[B]``, NaN where it has none.
Statistic = Callable[[Weights], NDArray[np.float64]]

RESAMPLES = 2000
#: Fewer groups than this cannot be resampled into an interval that means anything.
LEAST_GROUPS = 10


@dataclass(frozen=True)
class Estimate:
    """A score and its 95 % percentile interval; ``low`` and ``high`` are None where nothing could be resampled."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Resamples:
    """How often each of N items was drawn, float64 ``[B, N]``, and what was drawn: ``unit``, e.g. ``95 patients``."""

    weights: Weights
    unit: str


def resample(groups: Sequence[str], *, resamples: int = RESAMPLES, seed: int = 0) -> Resamples:
    """Draw patients with replacement, as many as there are; the same seed draws the same.

    Where there are fewer than ``LEAST_GROUPS`` of them the images are drawn instead, and ``unit`` of the answer says
    so: such an interval tells nothing of other patients.

    Args:
        groups: the patient of each image; where no two images share one, the images are what is drawn.
    """
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    if len(names) == len(groups):
        what = f"{len(groups)} images"
    elif len(names) >= LEAST_GROUPS:
        what = f"{len(names)} patients"
    else:
        what = f"{len(groups)} images of {len(names)} patients"
        member = np.arange(len(groups))
    count = int(member.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return Resamples(drawn[:, member].astype(np.float64), what)


def estimate(statistic: Statistic, resamples: Resamples) -> Estimate | None:
    """The score on the items as they are, and between which values 95 % of the resamples lie.

    None where the items have no such score. Resamples without one (no positive was drawn) are left out.
    """
    value = float(statistic(np.ones((1, resamples.weights.shape[1])))[0])
    if np.isnan(value):
        return None
    scores = statistic(resamples.weights)
    scores = scores[~np.isnan(scores)]
    if scores.size == 0:
        return Estimate(value, None, None)
    low, high = np.percentile(scores, (2.5, 97.5))
    return Estimate(value, float(low), float(high))


def mean_of(values: Sequence[float] | NDArray[Any]) -> Statistic:
    """The mean of one value an item; items whose value is NaN are left out."""
    array = np.asarray(values, np.float64)
    there = ~np.isnan(array)
    return ratio_of(np.where(there, array, 0.0), there.astype(np.float64))


def ratio_of(numerators: NDArray[Any], denominators: NDArray[Any]) -> Statistic:
    """A pooled ratio: the sum of one figure an item over the sum of another."""
    top, bottom = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    return lambda weights: _divide(weights @ top, weights @ bottom)


def auc_of(scores: NDArray[Any], truth: NDArray[Any]) -> Statistic:
    """``metrics.auc`` of one score an item."""
    positive = truth.astype(bool)
    wins = pairwise_wins(scores, truth)

    def statistic(weights: Weights) -> NDArray[np.float64]:
        ours, theirs = weights[:, positive], weights[:, ~positive]
        return _divide(((ours @ wins) * theirs).sum(axis=1), ours.sum(axis=1) * theirs.sum(axis=1))

    return statistic


def calibration_error_of(probability: NDArray[Any], truth: NDArray[Any], bins: int = CALIBRATION_BINS) -> Statistic:
    """``metrics.calibration_error`` of one probability an item."""
    member = np.eye(bins)[calibration_bin(probability, bins)]
    gaps = member * (probability.astype(np.float64) - truth.astype(np.float64))[:, None]
    return lambda weights: _divide(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def _divide(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
