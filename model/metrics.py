"""Metrics as pure functions of arrays.

Of label maps where a docstring says so (boolean, or non-negative integers of any number of classes), else of boolean
masks or of scores. Nothing here resizes, thresholds or averages over images; ``intervals`` does the last.
"""

from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bins of equal width that a calibration error is taken over.
CALIBRATION_BINS = 10


def dice(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    """Dice coefficient of two boolean masks of one shape, in 0..1; 1 where both are empty (Dice 1945)."""
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(np.logical_and(prediction, truth))) / total if total else 1.0


def iou(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    """Intersection over union of two boolean masks of one shape, in 0..1; 1 where both are empty (Jaccard 1912)."""
    either = int(np.count_nonzero(np.logical_or(prediction, truth)))
    return int(np.count_nonzero(np.logical_and(prediction, truth))) / either if either else 1.0


def sensitivity(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    """Share of what is true that is called, of two boolean arrays of one shape; NaN where nothing is true."""
    return _share(np.logical_and(prediction, truth), truth)


def specificity(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    """Share of what is not true that is not called, of two boolean arrays of one shape; NaN where all is true."""
    negative = np.logical_not(truth)
    return _share(np.logical_and(np.logical_not(prediction), negative), negative)


def agreement(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Share of equal labels of two arrays of one shape, in 0..1."""
    return float(np.mean(one == other))


def rand_error(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    """1 - Rand index of two label maps of one shape, in 0..1: the Rand loss as the Corona-Net talk gives it.

    The share of pixel pairs that one map puts into one class and the other does not (Rand 1971). Which class is which
    plays no part. 0 for fewer than two pixels.
    """
    both, one, other, pairs = _pairs(prediction, truth)
    return (one + other - 2 * both) / pairs if pairs else 0.0


def adjusted_rand_loss(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    """1 - (adjusted Rand index + 1) / 2 of two label maps of one shape: what the code of the talk's author computes.

    0 for equal maps, .5 where they agree no more than chance would have them (Hubert and Arabie 1985), above where
    they agree less. 0 where both maps are of one class only, for then there is nothing to tell apart.
    """
    both, one, other, pairs = _pairs(prediction, truth)
    # The index is (both - chance) / (mean - chance) with chance = one x other / pairs: times 2 x pairs, all integers.
    agreeing = 2 * (pairs * both - one * other)
    possible = pairs * (one + other) - 2 * one * other
    return (1 - agreeing / possible) / 2 if possible else 0.0


def contingency(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.int64]:
    """How many pixels of two label maps of one shape have each pair of labels, int64 ``[labels, labels]``."""
    if one.shape != other.shape:
        raise ValueError(f"expected two label maps of one shape, got {one.shape} and {other.shape}")
    first, second = one.ravel().astype(np.int64), other.ravel().astype(np.int64)
    rows, columns = (int(labels.max(initial=0)) + 1 for labels in (first, second))
    return np.bincount(first * columns + second, minlength=rows * columns).reshape(rows, columns)


def auc(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Area under the ROC curve of ``scores`` ``[N]`` for boolean ``truth`` ``[N]``: the Mann-Whitney statistic.

    NaN where only one class is present.
    """
    wins = pairwise_wins(scores, truth)
    return float(wins.mean()) if wins.size else float("nan")


def pairwise_wins(scores: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """1 where a positive ranks above a negative, .5 at a tie, else 0: float64 ``[positives, negatives]``."""
    positives, negatives = scores[truth.astype(bool)][:, None], scores[~truth.astype(bool)][None, :]
    return (positives > negatives) + 0.5 * (positives == negatives)


def calibration_error(probability: NDArray[Any], truth: NDArray[Any], bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error of ``probability`` ``[N]`` for boolean ``truth`` ``[N]``, in 0..1.

    Over ``bins`` of equal width: how far the mean probability lies from the share that is true, each bin with the
    weight of its members (Naeini et al. 2015, for the probability of the positive class). NaN for no members.
    """
    if probability.size == 0:
        return float("nan")
    gaps = np.bincount(calibration_bin(probability, bins), weights=probability - truth.astype(np.float64))
    return float(np.abs(gaps).sum() / probability.size)


def calibration_bin(probability: NDArray[Any], bins: int = CALIBRATION_BINS) -> NDArray[np.int64]:
    """The bin, from 0, that each probability falls into; 1.0 belongs to the last."""
    return np.minimum((probability.astype(np.float64) * bins).astype(np.int64), bins - 1)


def _share(part: NDArray[np.bool_], whole: NDArray[Any]) -> float:
    total = int(np.count_nonzero(whole))
    return int(np.count_nonzero(part)) / total if total else float("nan")


def _pairs(one: NDArray[Any], other: NDArray[Any]) -> tuple[int, int, int, int]:
    """Pairs of pixels that lie in one class of both maps, of the first, of the second, and all pairs there are.

    Python's integers, because their products pass 64 bits at 512 x 512 pixels.
    """
    table = contingency(one, other)
    counts = (table.ravel(), table.sum(axis=1), table.sum(axis=0), table.sum(keepdims=True).ravel())
    both, first, second, pairs = (sum(comb(int(count), 2) for count in row) for row in counts)
    return both, first, second, pairs
