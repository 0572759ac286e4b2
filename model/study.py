"""A study as everything inside the project sees it: int16 Hounsfield units and spacing in millimetres."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from .scratch import AT_ONCE, release

SourceKind = Literal["dicom", "nifti", "image", "phantom"]


@dataclass(frozen=True)
class Study:
    """Slices in one stack, axial, feet to head, as a radiologist looks at them.

    Attributes:
        name: how the outputs are called: the file's stem or the series' folder.
        image: int16 HU ``[Z, H, W]``; rows run from the front of the body to the back, columns from the patient's
            right to the left, as stored for DICOM series and for images (whose orientation is not recorded).
        kind: what the study was read from.
        spacing_mm: (between slices, between rows, between columns), or None for images, which have none.
        affine: voxel (column, row, slice) to RAS millimetres, float64 ``[4, 4]``, or None for images.
        nifti: what puts a mask back on the grid of the NIfTI file it came from.
        dicom: the files and frames that a DICOM study was read from.
        window_hu: the HU that grey 0 and grey 255 stood for, for an 8-bit image.
        notes: what a reader of the report must know about how the study was read, one sentence each.
        positions_mm: float64 ``[Z]``, ascending: where each slice lies along the stack's normal; None where they are
            evenly ``spacing_mm[0]`` apart.
    """

    name: str
    image: NDArray[np.int16]
    kind: SourceKind
    spacing_mm: tuple[float, float, float] | None = None
    affine: NDArray[np.float64] | None = None
    nifti: "NiftiGrid | None" = None
    dicom: "DicomSlices | None" = None
    window_hu: tuple[float, float] | None = None
    notes: tuple[str, ...] = field(default=())
    positions_mm: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))

    @property
    def tells_sides(self) -> bool:
        """Whether the input says which side is the patient's right: an image does not, nor does a NIfTI file whose
        qform and sform codes are both 0, for then its affine is only a default (NIfTI-1, method 1).
        """
        return self.affine is not None and not (self.nifti is not None and self.nifti.codes == (0, 0))


@dataclass(frozen=True)
class Arriving:
    """A study whose headers were read, and whose slices are still on their way into its image.

    ``arrivals`` puts them there as it is gone through, once, and tells the index of each. What is wrong with the pixels
    it raises as a ``UsageError``. ``origin`` is the file or folder that was given, for messages; ``opening_s`` is how
    long it took to find it and to read its headers.
    """

    study: Study
    arrivals: Iterator[int]
    origin: str
    opening_s: float = 0.0

    @classmethod
    def whole(cls, study: Study) -> Self:
        """Of a study that is all there."""
        return cls(study, iter(range(len(study.image))), study.name)

    def complete(self) -> Study:
        """The study, once every slice has arrived."""
        for count, _ in enumerate(self.arrivals):
            if count % AT_ONCE == 0:
                release(self.study.image)
        release(self.study.image)
        return self.study


def printable(name: str) -> str:
    """A name of the file system as text; what is not UTF-8 in it (a lone surrogate, to Python) becomes U+FFFD."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@dataclass(frozen=True)
class NiftiGrid:
    """The grid of a NIfTI file: its affine, its shape, and where each of its axes went.

    ``shape`` has three axes, or two for a file of a single slice, or more of size 1 behind them. ``orientation`` is
    nibabel's ``[3, 2]`` array from the file's axes to the study's columns, rows and slices. ``codes`` are those of its
    qform and sform: what space they lead to.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, ...]
    orientation: NDArray[np.float64]
    codes: tuple[int, int]


@dataclass(frozen=True)
class DicomSlices:
    """Where the slices of a study lie on disk, feet to head: file and frame in it, counted from 0."""

    frames: tuple[tuple[Path, int], ...]
