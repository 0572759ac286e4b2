"""Results as a PACS takes them: a Segmentation and a Structured Report beside the other files of a study."""

from collections.abc import Sequence
from pathlib import Path

from ...model.assessment import Assessment
from ...model.findings import Decisions
from ...model.readers.dicom.files import quiet
from ...model.study import Study
from ..report import DICOM_FILES, ModelRecord
from .equipment import Equipment
from .segmentation import make_segmentation
from .source import NoObjectsError, read_source
from .structured_report import make_report

__all__ = ["NoObjectsError", "write_dicom"]


def write_dicom(
    folder: Path, study: Study, decisions: Decisions, assessment: Assessment, models: Sequence[ModelRecord]
) -> None:
    """Write both objects of a study that was read from DICOM into ``folder``.

    Raises:
        NoObjectsError: the study was not read from DICOM, or its files lack what an object must refer to.
    """
    source, equipment = read_source(study), Equipment.of(models)
    with quiet():
        try:
            segmentation = make_segmentation(source, decisions, equipment)
            report = make_report(source, segmentation, assessment, equipment)
            for name, dataset in zip(DICOM_FILES, (segmentation, report), strict=True):
                dataset.save_as(folder / name)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # highdicom checks what it copies, and quotes it: the line must not.
            raise NoObjectsError(
                f"{study.name} has a header that no DICOM object can be made from ({type(error).__name__})"
            ) from None
