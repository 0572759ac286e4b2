"""Whose study it is: only read, and only written, where the user asked for it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Identity:
    """What a DICOM header says, empty where it says nothing; dates as DICOM writes them, e.g. ``20201123``."""

    patient_name: str
    patient_id: str
    patient_birth_date: str
    patient_sex: str
    accession_number: str
    study_date: str
    study_uid: str
    series_uid: str
