"""From decisions and truth to scores with intervals, the same for our networks and for other people's maps.

How masks are scored, for one label at a time:

- ``dice``, ``sensitivity``, ``iou``, ``rand_error`` and ``adjusted_rand_loss`` are means over the images that show the
  label in truth, because a Dice on an image without it is 0 or 1 by convention alone;
- ``specificity`` is the mean over all images;
- ``dice_pooled`` is 2 TP / (2 TP + FP + FN) over the pixels of all images, those without the label included.

A map with several labels has a row of its own, ``all labels``: ``dice`` is then the mean over each image's labels, and
the two Rand scores are of the whole label map, over the images that show any of the labels.

Classifications: ``auc``, and at the operating point ``sensitivity``, ``specificity``, ``accuracy`` and ``f1``; and the
expected ``calibration_error`` over ten bins. Every interval is a 95 % bootstrap interval (``model.intervals``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model.intervals import (
    Estimate,
    Statistic,
    auc_of,
    calibration_error_of,
    estimate,
    mean_of,
    ratio_of,
    resample,
)
from ...model.metrics import adjusted_rand_loss, dice, iou, rand_error, sensitivity, specificity
from ...model.tasks import TASKS
from .sets import CaseSet

NAN = float("nan")


@dataclass(frozen=True)
class Scores:
    """What one label of one set came to.

    Attributes:
        label: the name of the label.
        images: how many images were scored.
        showing: how many of them show the label in truth; None where nobody has said.
        resampled: what the intervals draw, e.g. ``48 images``; empty where there are none.
    """

    label: str
    images: int
    showing: int | None
    resampled: str
    values: Mapping[str, Estimate]


@dataclass(frozen=True)
class MaskTally:
    """One image and one label: the figures per image, NaN where the image has none, and the pixels to pool."""

    shown: bool
    overlap: int
    marked: int
    dice: float
    sensitivity: float
    specificity: float
    iou: float
    rand_error: float
    adjusted_rand_loss: float


def tally_mask(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> MaskTally:
    """The figures of one boolean mask against the truth of one shape."""
    shown = bool(truth.any())
    return MaskTally(
        shown=shown,
        overlap=int(np.count_nonzero(prediction & truth)),
        marked=int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth)),
        dice=dice(prediction, truth) if shown else NAN,
        sensitivity=sensitivity(prediction, truth),
        specificity=specificity(prediction, truth),
        iou=iou(prediction, truth) if shown else NAN,
        rand_error=rand_error(prediction, truth) if shown else NAN,
        adjusted_rand_loss=adjusted_rand_loss(prediction, truth) if shown else NAN,
    )


def score_masks(cases: CaseSet, labels: Sequence[int], decisions: Iterable[NDArray[np.uint8]]) -> list[Scores]:
    """Scores of one label map an image ``[H, W]``, in the order of the cases, for each of ``labels``."""
    tallies: dict[int, list[MaskTally]] = {label: [] for label in labels}
    whole: list[MaskTally] = []
    groups: list[str] = []
    for case, decision in zip(cases.cases, decisions, strict=True):
        groups.append(case.group)
        for label in labels:
            tallies[label].append(tally_mask(decision == label, case.truth == label))
        if len(labels) > 1:
            whole.append(_tally_map(decision, case.truth, [tallies[label][-1] for label in labels]))
    names = TASKS[cases.task].labels
    scores = [_summarise(names[label], tallies[label], groups) for label in labels]
    return [*scores, _summarise("all labels", whole, groups)] if whole else scores


def _tally_map(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], parts: Sequence[MaskTally]) -> MaskTally:
    """A label map as a whole, its labels' own figures taken together."""
    shown = any(part.shown for part in parts)
    return MaskTally(
        shown=shown,
        overlap=sum(part.overlap for part in parts),
        marked=sum(part.marked for part in parts),
        dice=float(np.mean([part.dice for part in parts if part.shown])) if shown else NAN,
        sensitivity=NAN,
        specificity=NAN,
        iou=NAN,
        rand_error=rand_error(prediction, truth) if shown else NAN,
        adjusted_rand_loss=adjusted_rand_loss(prediction, truth) if shown else NAN,
    )


def _summarise(label: str, tallies: Sequence[MaskTally], groups: Sequence[str]) -> Scores:
    overlap, marked = (np.array([getattr(tally, name) for tally in tallies]) for name in ("overlap", "marked"))
    means: dict[str, Statistic] = {
        name: mean_of([getattr(tally, name) for tally in tallies])
        for name in ("dice", "sensitivity", "specificity", "iou", "rand_error", "adjusted_rand_loss")
    }
    statistics = {"dice": means.pop("dice"), "dice_pooled": ratio_of(2 * overlap, marked), **means}
    return _estimates(label, statistics, groups, showing=sum(tally.shown for tally in tallies))


def score_probabilities(cases: CaseSet, decisions: Iterable[NDArray[Any]], threshold: float) -> list[Scores]:
    """Scores of one probability an image, in the order of the cases, at the operating point ``threshold``."""
    probability = np.array([float(decision) for decision in decisions])
    truth = np.array([bool(case.truth) for case in cases.cases])
    called = probability >= threshold
    right = called & truth
    statistics = {
        "auc": auc_of(probability, truth),
        "sensitivity": ratio_of(right, truth),
        "specificity": ratio_of(~called & ~truth, ~truth),
        "accuracy": mean_of((called == truth).astype(np.float64)),
        "f1": ratio_of(2 * right, called.astype(np.int64) + truth),
        "calibration_error": calibration_error_of(probability, truth),
    }
    groups = [case.group for case in cases.cases]
    return [_estimates(TASKS[cases.task].labels[1], statistics, groups, showing=int(truth.sum()))]


def _estimates(label: str, statistics: Mapping[str, Statistic], groups: Sequence[str], *, showing: int) -> Scores:
    resamples = resample(groups)
    found = {name: estimate(statistic, resamples) for name, statistic in statistics.items()}
    values = {name: value for name, value in found.items() if value is not None}
    return Scores(label, len(groups), showing, resamples.unit, values)
