"""A DICOM file as the frames it holds: where each lies and how its values become Hounsfield units."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ...errors import UsageError
from ..hounsfield import check_size
from .files import DAMAGED, quiet
from .headers import Header, word


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice of a series.

    Attributes:
        header, index: of the file, and the frame in it.
        order: acquisition and instance number, which decide between frames at one position.
        position_mm: centre of the first pixel, in the patient's LPS millimetres.
        row_axis, column_axis: unit vectors along a row and along a column.
        spacing_mm: between rows, between columns.
        thickness_mm: nominal slice thickness, positive, where it is given.
        unspecified_units: the rescale type is "US", so the header leaves the unit open.
    """

    header: Header
    index: int
    instance: str
    order: tuple[int, int]
    size: tuple[int, int]
    position_mm: NDArray[np.float64]
    row_axis: NDArray[np.float64]
    column_axis: NDArray[np.float64]
    spacing_mm: tuple[float, float]
    thickness_mm: float | None
    slope: float
    intercept: float
    unspecified_units: bool

    @property
    def path(self) -> Path:
        return self.header.path

    @property
    def normal(self) -> NDArray[np.float64]:
        return np.cross(self.row_axis, self.column_axis)


def read_frames(header: Header) -> list[Frame]:
    """The frames of a CT file: one, or those of an enhanced multi-frame object.

    Raises:
        UsageError: the header lacks what a slice in Hounsfield units needs, or means something else.
    """
    with quiet():
        try:
            _check_pixels(header)
            groups = _frame_groups(header)
            return [_frame(header, index, group) for index, group in enumerate(groups)]
        except DAMAGED as error:
            raise UsageError(
                f"{header.path} has a damaged DICOM header ({type(error).__name__})", page="corrupted-file"
            ) from None


def _check_pixels(header: Header) -> None:
    dataset, path = header.dataset, header.path
    check_size(header.frames, int(dataset.Rows), int(dataset.get("Columns", 0) or 0), origin=str(path))
    if header.bits not in (8, 16, 32):
        raise UsageError(f"{path} has {header.bits} bits a pixel: expected CT slices of 16")
    samples, photometric = dataset.get("SamplesPerPixel", 1), word(dataset.get("PhotometricInterpretation"))
    if samples != 1 or photometric != "MONOCHROME2":
        raise UsageError(
            f"{path} holds {photometric or 'unspecified'} pixels with {samples} samples: expected MONOCHROME2 CT slices"
        )


def _frame_groups(header: Header) -> list[list[Dataset]]:
    """For each frame the datasets that describe it, the most specific first."""
    dataset = header.dataset
    frames = dataset.get("PerFrameFunctionalGroupsSequence")
    if frames is None:
        if header.frames > 1:
            raise UsageError(
                f"{header.path} holds {header.frames} frames but does not say where they lie (no per-frame functional "
                "groups): expected single slices or an enhanced CT object"
            )
        return [[dataset]]
    if len(frames) != header.frames:
        raise UsageError(f"{header.path} announces {header.frames} frames and describes {len(frames)}: copy it again")
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or [])
    return [[frame, *shared, dataset] for frame in frames]


def _frame(header: Header, index: int, groups: list[Dataset]) -> Frame:
    def value(keyword: str, sequence: str) -> object:
        for group in groups:
            items = group.get(sequence)
            for holder in ([items[0]] if items else []) + [group]:
                if (found := holder.get(keyword)) not in (None, ""):
                    return found
        return None

    def numbers(keyword: str, sequence: str, count: int) -> NDArray[np.float64]:
        found = value(keyword, sequence)
        if found is None:
            raise UsageError(f"{header.path} has no {keyword}: expected the header of a CT slice{_remedy(keyword)}")
        array = np.atleast_1d(np.asarray(found, np.float64))
        if array.shape != (count,) or not np.isfinite(array).all():
            raise UsageError(f"{header.path} has a broken {keyword}: expected {count} finite numbers")
        return array

    rescale = "PixelValueTransformationSequence"
    unit = word(value("RescaleType", rescale) or "HU").upper()
    if unit not in ("HU", "US"):
        raise UsageError(f"{header.path} is rescaled to {unit}: expected Hounsfield units (HU)")
    cosines = numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6)
    row_axis, column_axis = cosines[:3], cosines[3:]
    if abs(np.linalg.norm(np.cross(row_axis, column_axis)) - 1) > 0.01:
        raise UsageError(f"{header.path} has a broken ImageOrientationPatient: expected two perpendicular unit vectors")
    spacing = numbers("PixelSpacing", "PixelMeasuresSequence", 2)
    if spacing.min() <= 0:
        raise UsageError(f"{header.path} has a broken PixelSpacing: expected two positive numbers")
    dataset = header.dataset
    return Frame(
        header=header,
        index=index,
        instance=f"{dataset.get('SOPInstanceUID') or header.path}/{index}",
        order=(int(dataset.get("AcquisitionNumber", 0) or 0), int(dataset.get("InstanceNumber", 0) or 0) + index),
        size=(int(dataset.Rows), int(dataset.Columns)),
        position_mm=numbers("ImagePositionPatient", "PlanePositionSequence", 3),
        row_axis=row_axis,
        column_axis=column_axis,
        spacing_mm=(float(spacing[0]), float(spacing[1])),
        thickness_mm=_thickness(value("SliceThickness", "PixelMeasuresSequence")),
        slope=float(numbers("RescaleSlope", rescale, 1)[0]),
        intercept=float(numbers("RescaleIntercept", rescale, 1)[0]),
        unspecified_units=unit == "US",
    )


def _thickness(found: object) -> float | None:
    """None where the header says nothing, or what no slice can be."""
    thickness = 0.0 if found is None else float(str(found))
    return thickness if math.isfinite(thickness) and thickness > 0 else None


def _remedy(keyword: str) -> str:
    if keyword.startswith("Rescale"):
        return ", without which its values are not Hounsfield units: export the series again from the PACS"
    return ": export the series again from the PACS"
