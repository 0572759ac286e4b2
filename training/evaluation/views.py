"""Other views of the same slices, on which a network that holds says the same."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .ledger import AS_GIVEN
from .sets import Case

#: Another hospital's lung window: width 1400 at level -300.
OTHER_WINDOW = (-1000, 400)


@dataclass(frozen=True)
class ViewOf:
    """How a slice is shown; ``change`` gives the slice and its truth as they then are, where it can be shown so."""

    name: str
    change: Callable[[Case], Case]
    can: Callable[[Case], bool] = lambda _: True


def turned(case: Case, quarters: int) -> Case:
    """The slice turned by quarter turns, against the clock."""
    truth = np.rot90(case.truth, quarters) if case.truth.ndim == 2 else case.truth
    return replace(
        case,
        image=np.ascontiguousarray(np.rot90(case.image, quarters)),
        truth=np.ascontiguousarray(truth),
        lung_box=None,
    )


def rewindowed(image: NDArray[np.int16], window: tuple[int, int] = OTHER_WINDOW) -> NDArray[np.int16]:
    """A slice saved as 8 bits with another window, and read back with that window: clipped, and in 256 steps."""
    low, high = window
    grey = np.rint((np.clip(image.astype(np.float32), low, high) - low) * (255 / (high - low)))
    return np.rint(low + grey * ((high - low) / 255)).astype(np.int16)


def cropped(case: Case) -> Case:
    """The slice cropped to its lungs; as it is where they are not labelled or hardly there."""
    if case.lung_box is None:
        return case
    top, left, bottom, right = case.lung_box
    part = np.s_[top:bottom, left:right]
    truth = case.truth[part] if case.truth.ndim == 2 else case.truth
    return replace(case, image=np.ascontiguousarray(case.image[part]), truth=np.ascontiguousarray(truth), lung_box=None)


UNCHANGED = ViewOf(AS_GIVEN, lambda case: case)
VIEWS = (
    ViewOf("turned by 90 degrees", lambda case: turned(case, 1)),
    ViewOf("turned by 180 degrees", lambda case: turned(case, 2)),
    ViewOf("turned by 270 degrees", lambda case: turned(case, 3)),
    ViewOf(
        f"window {OTHER_WINDOW[0]} to {OTHER_WINDOW[1]} HU", lambda case: replace(case, image=rewindowed(case.image))
    ),
    ViewOf("cropped to the lungs", cropped, lambda case: case.lung_box is not None),
)
