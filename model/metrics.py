"""Metrics as pure functions of arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def dice(prediction: NDArray[Any], truth: NDArray[Any]) -> float:
    """Dice coefficient of two boolean masks of one shape, in 0..1; 1 where both are empty (Dice 1945)."""
    total = int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth))
    return 2 * int(np.count_nonzero(np.logical_and(prediction, truth))) / total if total else 1.0


def agreement(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Share of equal labels of two arrays of one shape, in 0..1."""
    return float(np.mean(one == other))


def auc(scores: NDArray[Any], truth: NDArray[Any]) -> float:
    """Area under the ROC curve of ``scores`` ``[N]`` for boolean ``truth`` ``[N]``: the Mann-Whitney statistic.

    NaN where only one class is present.
    """
    positives, negatives = scores[truth.astype(bool)], scores[~truth.astype(bool)]
    if positives.size == 0 or negatives.size == 0:
        return float("nan")
    wins = positives[:, None] > negatives[None, :]
    ties = positives[:, None] == negatives[None, :]
    return float(np.mean(wins + 0.5 * ties))
