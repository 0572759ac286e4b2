"""One pass over a study and the masks on it: how many pixels of every slice are what. All figures come from this."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .regions import LEFT, RIGHT, midline_mm, sides
from .scratch import map_planes
from .study import Study
from .tasks import LESION_TYPES

#: HU of well-aerated lung: Colombi et al., Radiology 296(2):E86, 2020 (PMC7233411).
WELL_AERATED_HU = (-950, -700)
#: Side, kind of lesion, and whether a pixel is lesion, well aerated, lung.
_SHAPE = (len((RIGHT, LEFT)), len(LESION_TYPES), 2, 2, 2)


@dataclass(frozen=True)
class Tally:
    """What the pixels of a study are.

    Attributes:
        pixels: int64 ``[Z, side, kind, lesion, well aerated, lung]``. ``kind`` is the 3-class network's, ``lesion`` the
            binary network's. Where sides cannot be said, everything is on the first.
        midline_mm: what divides the sides (``regions.midline_mm``), None where nothing does.
    """

    pixels: NDArray[np.int64]
    midline_mm: float | None

    @property
    def lung(self) -> NDArray[np.int64]:
        """Pixels of the lung mask, ``[Z]``."""
        return self.pixels[..., 1].sum(axis=(1, 2, 3, 4))

    @property
    def lesion(self) -> NDArray[np.int64]:
        """Pixels of the binary network's mask, ``[Z]``."""
        return self.pixels[:, :, :, 1].sum(axis=(1, 2, 3, 4))

    @property
    def lesion_in_lung(self) -> NDArray[np.int64]:
        """Pixels of the binary network's mask that lie in the lung mask, ``[Z]``."""
        return self.pixels[:, :, :, 1, :, 1].sum(axis=(1, 2, 3))

    @property
    def kinds(self) -> NDArray[np.int64]:
        """Pixels of the 3-class network's mask by label, background first, ``[Z, kind]``."""
        return self.pixels.sum(axis=(1, 3, 4, 5))

    @property
    def marked_by_both(self) -> int:
        """Pixels that both lesion networks mark, in the whole study."""
        return int(self.pixels[:, :, 1:, 1].sum())


def tally(study: Study, lesion: NDArray[np.uint8], types: NDArray[np.uint8], lung: NDArray[np.uint8]) -> Tally:
    """Count the three masks ``[Z, H, W]`` of ``findings.Decisions``. On all cores, in the memory of a few slices."""
    midline = midline_mm(study)
    low, high = WELL_AERATED_HU

    def count(index: int, image: NDArray[np.int16], *masks: NDArray[np.uint8]) -> NDArray[np.int64]:
        is_lesion, kind, is_lung = masks[0] > 0, masks[1], masks[2] > 0
        place = kind.copy()
        if midline is not None:
            place += len(LESION_TYPES) * sides(study, index, is_lung, midline)
        for answer in (is_lesion, (image >= low) & (image <= high), is_lung):
            place += place + answer
        # In float32, which is exact for as many pixels as a slice may have (readers.hounsfield.MAX_SIDE).
        found: NDArray[Any] = cv2.calcHist([place], [0], None, [int(np.prod(_SHAPE))], [0, int(np.prod(_SHAPE))])
        return found.astype(np.int64).reshape(_SHAPE)

    return Tally(np.array(map_planes(count, study.image, lesion, types, lung)), midline)
