"""One training slice and what its label map may be trusted for."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: What a label map says. ``types``: every pixel is background, ground glass or consolidation, and effusion is absent.
#: ``lesion``: lesion (1) or not, the kind unknown. ``effusion``: effusion (1) or not, other lesions not labelled.
#: ``lung``: lung (1) or not.
Supervision = Literal["types", "lesion", "effusion", "lung"]


@dataclass(frozen=True)
class Sample:
    """A slice with its labels.

    Attributes:
        image: int16 HU ``[H, W]``.
        labels: uint8 ``[H, W]``, read as ``supervision`` says.
        group: the patient or volume, which never crosses a split.
        lungs: the box (top, left, bottom, right) of the lungs in pixels, None where they are not labelled.
    """

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    supervision: Supervision
    group: str
    lungs: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Split:
    """What teaches and what validates; the groups of the two are disjoint."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    sources: tuple[str, ...]
    sha256: str
