"""Frames as stacks of parallel slices: one size, one orientation, one frame of reference, a place each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .frames import Frame
from .headers import Header, short_hash

#: cos of the largest angle, 45 degrees, between the slices' normal and the body's axis that is still called axial.
AXIAL = 0.7
SAME_MM = 1e-2
#: Sharp kernels for lungs as the makers name them: Siemens B50..B90 and Bl, Br from 50, GE LUNG, Philips L and Y,
#: Canon FC50..59 and FC80..89.
_LUNG_KERNEL = re.compile(r"LUNG|\bB[RLV]?[5-9]\d|\bBL\d\d|\bFC[58]\d\b|^L$|^Y[A-D]$")


@dataclass(frozen=True, eq=False)
class Stack:
    """Slices that could be one volume, feet to head along their normal, one a position.

    Attributes:
        number: how a person names it; counts the CT stacks of a study from 1.
        hash: of the series' UID.
        frames: in order; never empty.
        notes: what was dropped on the way.
    """

    number: int
    hash: str
    frames: tuple[Frame, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def header(self) -> Header:
        return self.frames[0].header

    @property
    def is_axial(self) -> bool:
        return bool(abs(self.frames[0].normal[2]) >= AXIAL)

    @property
    def has_lung_kernel(self) -> bool:
        return bool(_LUNG_KERNEL.search(self.header.kernel))

    @property
    def positions_mm(self) -> NDArray[np.float64] | None:
        """Where the slices lie along their normal, float64 ``[Z]``, None where they are evenly apart."""
        gaps = self.gaps_mm
        return np.array([along(frame) for frame in self.frames]) if gaps.size and np.ptp(gaps) > SAME_MM else None

    @property
    def gaps_mm(self) -> NDArray[np.float64]:
        """Distances between neighbouring slices along their normal, float64 ``[Z - 1]``."""
        return np.diff([along(frame) for frame in self.frames])

    @property
    def between_mm(self) -> float | None:
        """The usual distance between slices; of a single one its thickness, None where that is not given."""
        gaps = self.gaps_mm
        return float(np.median(gaps)) if gaps.size else self.frames[0].thickness_mm

    @property
    def extent_mm(self) -> float:
        return float(self.gaps_mm.sum()) + (self.between_mm or 0.0)

    def __str__(self) -> str:
        """E.g. ``2 (ab12cd: 240 slices, 1.25 mm apart, lung kernel)``: nothing of the patient's."""
        apart = f", {self.between_mm:.3g} mm apart" if len(self.frames) > 1 else ""
        kernel = ", lung kernel" if self.has_lung_kernel else ""
        return f"{self.number} ({self.hash}: {counted(len(self.frames), 'slice')}{apart}{kernel})"


def make_stacks(frames: Sequence[Frame]) -> list[list[Frame]]:
    """The frames of one series, parted where they cannot be one volume, the largest part first."""
    stacks: list[list[Frame]] = []
    for frame in frames:
        for stack in stacks:
            if _belongs(frame, stack[0]):
                stack.append(frame)
                break
        else:
            stacks.append([frame])
    return sorted(stacks, key=len, reverse=True)


def make_stack(number: int, frames: Sequence[Frame]) -> Stack:
    """Feet to head along the slices' normal, one frame a position, copies of one instance dropped."""
    notes: list[str] = []
    unique = {frame.instance: frame for frame in frames}
    if (copies := len(frames) - len(unique)) > 0:
        notes.append(f"Files that are copies of another slice: {copies}; each slice was read once")
    ordered = sorted(unique.values(), key=lambda frame: (along(frame), frame.order))
    kept = [min(group, key=lambda frame: frame.order) for group in _by_position(ordered)]
    if (beside := len(ordered) - len(kept)) > 0:
        notes.append(
            f"Slices at a position that another slice has: {beside}; at each the first by acquisition and instance "
            "number was read"
        )
    return Stack(number, short_hash(kept[0].header.series), tuple(kept), tuple(notes))


def along(frame: Frame) -> float:
    """Where a slice lies along its normal, in millimetres towards the head."""
    return float(frame.position_mm @ headward(frame))


def headward(frame: Frame) -> NDArray[np.float64]:
    normal = frame.normal
    return normal if normal[2] > 0 else -normal


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _belongs(frame: Frame, first: Frame) -> bool:
    if frame.size != first.size or frame.header.frame_of_reference != first.header.frame_of_reference:
        return False
    turned = max(np.abs(frame.row_axis - first.row_axis).max(), np.abs(frame.column_axis - first.column_axis).max())
    return bool(turned <= 1e-2 and np.allclose(frame.spacing_mm, first.spacing_mm, rtol=1e-3))


def _by_position(ordered: Sequence[Frame]) -> list[list[Frame]]:
    groups: list[list[Frame]] = []
    for frame in ordered:
        if groups and along(frame) - along(groups[-1][0]) < SAME_MM:
            groups[-1].append(frame)
        else:
            groups.append([frame])
    return groups
