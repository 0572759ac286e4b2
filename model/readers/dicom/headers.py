"""The header of a DICOM file: what decides whether it is CT, of which series, before anything more is asked of it."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from ...errors import UsageError
from .files import DAMAGED, parse_header, quiet

_CT_CLASSES = "1.2.840.10008.5.1.4.1.1.2"  # CT Image Storage; the enhanced ones continue it with .1 and .2
_INDEX_CLASS = "1.2.840.10008.1.3.10"  # Media Storage Directory, whatever the file is called
#: Only these are read: nothing that names the patient is ever in memory.
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "FrameOfReferenceUID",
    "Modality", "ImageType", "BodyPartExamined", "ConvolutionKernel", "AcquisitionNumber", "InstanceNumber", "Rows",
    "Columns", "BitsAllocated", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says of itself; the texts are one line of printable letters, in capitals.

    Attributes:
        modality: e.g. ``CT``, ``SEG``; ``unknown`` where it is no word that a modality could be.
        series: the SeriesInstanceUID, for comparison only: it can lead back to the patient.
        series_number, body_part, kernel, image_type: as the scanner wrote them, empty or None where it did not.
        frame_of_reference: the FrameOfReferenceUID.
        frames, bits: how many it announces, and the bits that a pixel is stored in.
    """

    path: Path
    dataset: Dataset
    modality: str
    series: str
    series_number: int | None
    body_part: str
    kernel: str
    image_type: tuple[str, ...]
    frame_of_reference: str
    frames: int
    bits: int
    is_ct_image: bool

    @property
    def is_localizer(self) -> bool:
        return "LOCALIZER" in self.image_type

    @property
    def pixel_bytes(self) -> int:
        """What its pixels take when decoded, as it says itself."""
        return self.frames * int(self.dataset.Rows) * int(self.dataset.Columns) * self.bits // 8

    @property
    def kind(self) -> str:
        """What messages call a file that is not read."""
        return "CT localizer" if self.is_localizer else self.modality


def read_header(path: Path) -> Header:
    """
    Raises:
        UsageError: the file is not DICOM, or is cut off or damaged before its pixels.
    """
    try:
        with quiet():
            dataset = parse_header(path, _TAGS)
            return _header(path, dataset)
    except DAMAGED as error:
        raise UsageError(f"{path} is not a readable DICOM file ({type(error).__name__}): copy it again") from None


def study_of(path: Path) -> str:
    """What the files of one examination share: the hash of their StudyInstanceUID, empty where a file does not say."""
    try:
        with quiet():
            uid = str(parse_header(path, ["StudyInstanceUID"]).get("StudyInstanceUID", "") or "")
    except DAMAGED:
        return ""
    return hashlib.sha256(uid.encode()).hexdigest() if uid else ""


def short_hash(uid: str) -> str:
    """A UID by which a person can tell series apart, and which does not lead back to the patient."""
    return hashlib.sha256(uid.encode()).hexdigest()[:6]


def word(found: object) -> str:
    """A value that messages quote: one line of it, and nothing that a terminal obeys."""
    return "".join(letter for letter in str(found or "") if letter.isprintable()).strip()


def _header(path: Path, dataset: Dataset) -> Header:
    sop_class = str(dataset.get("SOPClassUID", "") or "")
    modality = word(dataset.get("Modality"))
    if not sop_class and dataset.file_meta.get("MediaStorageSOPClassUID") == _INDEX_CLASS:
        modality = "DICOMDIR"
    has_pixels = dataset.get("Rows") is not None
    is_ct_class = sop_class == _CT_CLASSES or sop_class.startswith(_CT_CLASSES + ".")
    # Every object names a class that is known or its modality, so one without is cut off, not of another kind.
    if not (modality or UID(sop_class).type) or (is_ct_class and not has_pixels):
        raise UsageError(
            f"{path} is truncated: its DICOM header ends before the image is described; copy it again",
            page="corrupted-file",
        )
    number = word(dataset.get("SeriesNumber"))
    return Header(
        path=path,
        dataset=dataset,
        modality="CT" if is_ct_class else modality if re.fullmatch(r"[A-Z0-9_]{2,16}", modality) else "unknown",
        series=str(dataset.get("SeriesInstanceUID", "") or ""),
        series_number=int(number) if re.fullmatch(r"\d{1,9}", number) else None,
        body_part=word(dataset.get("BodyPartExamined")).upper(),
        kernel=_kernel(dataset),
        image_type=_words(dataset.get("ImageType")),
        frame_of_reference=str(dataset.get("FrameOfReferenceUID", "") or ""),
        frames=int(dataset.get("NumberOfFrames", 1) or 1),
        bits=int(dataset.get("BitsAllocated", 16) or 16),
        is_ct_image=has_pixels and (modality == "CT" or is_ct_class),
    )


def _kernel(dataset: Dataset) -> str:
    """The reconstruction kernel, which an enhanced object has in its functional groups."""
    holders = [dataset]
    for groups in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in (dataset.get(groups) or [])[:1]:
            holders += list(group.get("CTReconstructionSequence") or [])
    return " ".join(next((words for holder in holders if (words := _words(holder.get("ConvolutionKernel")))), ()))


def _words(found: object) -> tuple[str, ...]:
    """The values of an element, of which there may be none, one or several."""
    values = found if isinstance(found, MultiValue) else [found]
    return tuple(text for value in values if (text := word(value).upper()))
