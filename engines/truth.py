"""What a labelled slice says about a task, and nothing that it does not."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.tasks import LESION_TYPES, TaskName
from .samples import LESION_KNOWN, Sample

EFFUSION = LESION_TYPES.index("pleural effusion")


@dataclass(frozen=True)
class Truth:
    """``labels`` in the values of the task: uint8 ``[H, W]`` for a mask, ``[]`` for a slice; only those in ``judged``
    are known, as present or absent, everywhere."""

    labels: NDArray[np.uint8]
    judged: tuple[int, ...]

    @property
    def is_shown(self) -> bool:
        """Whether any of the judged labels is there: a Dice where none is says nothing."""
        return bool(np.isin(self.labels, self.judged).any())


def truth_of(sample: Sample, task: TaskName) -> Truth | None:
    """The truth of a slice for a task; None where its labels say nothing about it."""
    lesion = sample.supervision in LESION_KNOWN
    match task:
        case "classification":
            return _known(lesion, np.array(sample.labels.any()), (1,))
        case "binary_segmentation":
            return _known(lesion, sample.labels > 0, (1,))
        case "lung_segmentation":
            return None if sample.lung is None else Truth((sample.lung == 1).astype(np.uint8), (1,))
        case "multiclass_segmentation" if sample.supervision == "effusion":
            return Truth(sample.labels * np.uint8(EFFUSION), (EFFUSION,))
        case "multiclass_segmentation":
            return _known(sample.supervision == "types", sample.labels, (1, 2, EFFUSION))


def _known(known: bool, labels: NDArray[Any], judged: tuple[int, ...]) -> Truth | None:
    return Truth(labels.astype(np.uint8), judged) if known else None
