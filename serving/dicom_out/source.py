"""The images that the DICOM objects refer to: the headers of the series that was read."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from ...model.errors import UsageError
from ...model.readers.dicom.files import DAMAGED, parse_header, quiet
from ...model.study import Study

#: Of every image but the first: who it is and where it lies.
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "PatientID", "AccessionNumber", "Rows", "Columns", "NumberOfFrames", "ImageType", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "InstanceNumber",
]  # fmt: skip
#: What the objects cannot be without, since it says to what they belong.
_NEEDED = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
#: May be empty in an object, but must be there (type 2 of the patient and study modules), and what each must look like:
#: a value that DICOM does not allow is left out, since nobody may read it as one that it does.
_MAY_BE_EMPTY = {
    "PatientName": ".*",
    "PatientID": ".*",
    "PatientBirthDate": r"\d{8}",
    "PatientSex": "[MFO]",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "StudyID": ".*",
    "AccessionNumber": ".*",
    "ReferringPhysicianName": ".*",
}


class NoObjectsError(UsageError):
    """A study that was read, but that no Segmentation and no Structured Report can be made of; the text says why."""


@dataclass(frozen=True)
class Source:
    """The images of a series and how a study's slices lie in them.

    Attributes:
        images: headers without pixels: one a slice, feet to head, or a single one of all frames.
        slices: for each frame of the images the study's slice.
    """

    images: tuple[Dataset, ...]
    slices: tuple[int, ...]

    def in_order(self, masks: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Masks ``[Z, …]`` of the study in the order of the images' frames."""
        return masks if self.slices == tuple(range(len(masks))) else masks[list(self.slices)]


def read_source(study: Study) -> Source:
    """Read the headers again; only here is what names the patient in memory.

    Raises:
        NoObjectsError: the study was not read from DICOM, or its files lack what an object must refer to.
        UsageError: its files are not what they were when they were read.
    """
    if study.dicom is None:
        raise NoObjectsError(
            f"{study.name} was not read from DICOM: a segmentation must refer to the images that it is of"
        )
    images: list[Dataset] = []
    for path in dict(study.dicom.frames):
        images.append(_header(path, whole=not images))
    if len(images) == len(study.image):
        return Source(tuple(images), tuple(range(len(images))))
    if len(images) > 1:
        raise NoObjectsError(f"{study.name} is spread over several multi-frame files")
    frames, announced = [frame for _, frame in study.dicom.frames], int(images[0].NumberOfFrames)
    if sorted(frames) != list(range(announced)):
        raise NoObjectsError(
            f"reading {study.name} left out {announced - len(frames)} of {announced} frames of a multi-frame file, "
            "which a segmentation cannot say"
        )
    return Source(tuple(images), tuple(frames.index(frame) for frame in range(announced)))


def _header(path: Path, *, whole: bool) -> Dataset:
    with quiet():
        try:
            dataset = parse_header(path, None if whole else _TAGS)
        except DAMAGED as error:
            raise UsageError(f"{path} changed since it was read ({type(error).__name__}): run again") from None
        if missing := [keyword for keyword in _NEEDED if not dataset.get(keyword)]:
            raise NoObjectsError(f"{path} has no {missing[0]}, so no DICOM object can refer to it")
        for keyword, pattern in _MAY_BE_EMPTY.items():
            if not (value := str(dataset.get(keyword) or "").strip()) or not re.fullmatch(pattern, value):
                setattr(dataset, keyword, "")
    return dataset
