"""A DICOM series, whole and in order, as int16 HU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ... import scratch
from ...study import Arriving, DicomSlices, Study
from ..hounsfield import check_size
from .choice import choose_stack
from .geometry import geometry
from .headers import read_header, study_of
from .pixels import read_pixels

__all__ = ["open_series", "study_of"]


def open_series(paths: Sequence[Path], *, name: str, origin: Path, wanted: str | None = None) -> Arriving:
    """The axial CT series among ``paths`` that shows the lungs best; the notes say why, and what is left out.

    Args:
        paths: DICOM files of one study, in any order, of any series.
        name: how the outputs are called.
        origin: the file or folder, for messages.
        wanted: another series, by its number in the notes, its hash or its SeriesInstanceUID.

    Raises:
        UsageError: a file is damaged, none is axial CT, or ``wanted`` is none of them; what only the pixels tell, while
            the slices arrive.
    """
    stack, notes = choose_stack([read_header(path) for path in paths], origin, wanted)
    frames = stack.frames
    affine, spacing_mm, geometry_notes = geometry(stack)
    check_size(len(frames), *frames[0].size, origin=str(origin))
    if any(frame.unspecified_units for frame in frames):
        notes.append("The header leaves the unit open (rescale type US); read as the Hounsfield units that CT is in")
    study = Study(
        name,
        scratch.empty((len(frames), *frames[0].size), np.int16),
        "dicom",
        spacing_mm=spacing_mm,
        affine=affine,
        dicom=DicomSlices(tuple((frame.path, frame.index) for frame in frames)),
        notes=(*notes, *geometry_notes),
        positions_mm=stack.positions_mm,
    )
    return Arriving(study, read_pixels(frames, study.image), str(origin))
