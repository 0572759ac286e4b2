"""Whose study it is, from the header of its first file."""

from ...errors import UsageError
from ...identity import Identity
from ...study import DicomSlices
from .files import DAMAGED, parse_header, quiet
from .headers import word

_TAGS = {
    "patient_name": "PatientName",
    "patient_id": "PatientID",
    "patient_birth_date": "PatientBirthDate",
    "patient_sex": "PatientSex",
    "accession_number": "AccessionNumber",
    "study_date": "StudyDate",
    "study_uid": "StudyInstanceUID",
    "series_uid": "SeriesInstanceUID",
}


def read_identity(slices: DicomSlices) -> Identity:
    """
    Raises:
        UsageError: the file changed since it was read.
    """
    path, _ = slices.frames[0]
    try:
        with quiet():
            # The character set decides how the name reads.
            dataset = parse_header(path, [*_TAGS.values(), "SpecificCharacterSet"])
            return Identity(**{name: word(dataset.get(keyword)) for name, keyword in _TAGS.items()})
    except DAMAGED as error:
        raise UsageError(f"{path} changed since it was read ({type(error).__name__}): run again") from None
