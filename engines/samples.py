"""One labelled slice and what its label map may be trusted for."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

#: What a label map says. ``types``: every pixel is background, ground glass or consolidation; effusion is taken to be
#: absent, though nobody drew it there (decision 14).
#: ``lesion``: lesion (1) or not, the kind unknown. ``effusion``: effusion (1) or not, other lesions not labelled.
Supervision = Literal["types", "lesion", "effusion"]
SUPERVISIONS: tuple[Supervision, ...] = get_args(Supervision)
#: Those that tell lesion from background.
LESION_KNOWN: tuple[Supervision, ...] = ("types", "lesion")
#: What a card adds to a data set of which no drawn mask was used.
IMAGE_LABELS_ONLY = " (image labels only)"
#: Between the densities of air or cloth and of a body.
BODY_HU = -500
#: The value of a lung mask where nobody has drawn one.
UNKNOWN = 255


@dataclass(frozen=True)
class Sample:
    """A slice with its labels.

    Attributes:
        image: int16 HU ``[H, W]``.
        labels: uint8 ``[H, W]``, read as ``supervision`` says.
        group: the patient or volume, which never crosses a split.
        lung: uint8 ``[H, W]``, 1 where there is lung; None where the lungs are not labelled.
    """

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    supervision: Supervision
    group: str
    lung: NDArray[np.uint8] | None = None

    @cached_property
    def lung_box(self) -> tuple[int, int, int, int] | None:
        """Top, left, bottom, right of the lungs in pixels; None where they are not labelled or hardly there."""
        if self.lung is None:
            return None
        rows, columns = self.lung.any(axis=1).nonzero()[0], self.lung.any(axis=0).nonzero()[0]
        if rows.size < 16 or columns.size < 16:
            return None
        return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1

    @cached_property
    def outside(self) -> NDArray[np.uint8]:
        """uint8 ``[H, W]``, 1 outside the body: air that reaches the edge of the slice, for a slice with lung mask.

        All 0 where the lungs are not labelled: such a slice may be cropped so that they reach the edge themselves.
        """
        if self.lung is None:
            return np.zeros(self.image.shape, np.uint8)
        air = cv2.erode((self.image < BODY_HU).astype(np.uint8), np.ones((5, 5), np.uint8))
        _, parts = cv2.connectedComponents(air)
        edge = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
        return (np.isin(parts, edge[edge > 0]) & (self.lung == 0)).astype(np.uint8)


@dataclass(frozen=True)
class Split:
    """What teaches and what validates; the groups of the two are disjoint."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    sources: tuple[str, ...]
    sha256: str
