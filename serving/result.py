"""What a person opens after a prediction: reports, pictures and masks, in one folder, whole or not at all."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from ..engines.bundle import publish
from ..model.assessment import Assessment
from ..model.errors import UsageError
from ..model.findings import Decisions
from ..model.identity import Identity
from ..model.lungs import Cleaning
from ..model.study import Study
from .nifti_out import write_mask
from .overlay import Canvas, render_montage, render_overlay
from .page import render_page
from .report import DICOM_FILES, OVERLAY, PAGE, REPORT, ModelRecord, Report, Timings, make_report

#: In the order of ``Decisions``.
MASKS = ("lesion_mask", "lesion_types", "lung_mask")
#: Everything that a result's folder can hold; a folder with anything else is not ours to replace.
KNOWN_FILES = frozenset(
    {REPORT, PAGE, OVERLAY, *DICOM_FILES, *(name + suffix for name in MASKS for suffix in (".png", ".nii.gz"))}
)


@dataclass(frozen=True)
class Extras:
    """What a result of a DICOM study has when it is asked for: DICOM objects, and whose study it is in its report.

    Where ``needs_dicom`` is false, a study that no objects can be made of is finished without them, and its notes say
    why; else it fails.
    """

    dicom: bool = False
    identify: bool = False
    needs_dicom: bool = True


def write_result(
    folder: Path,
    study: Study,
    decisions: Decisions,
    assessment: Assessment,
    models: Sequence[ModelRecord],
    *,
    cleaning: Cleaning,
    inference_ms: float,
    extras: Extras = Extras(),
) -> Report:
    """Write the folder of a study: reports, overlay and masks, or, where anything fails, nothing.

    A folder of an earlier result is replaced.

    Raises:
        UsageError: something else already has the folder's name, or it cannot be written.
    """
    check_replaceable(folder)
    start = time.perf_counter()
    try:
        with publish(folder) as work:
            montage = render_montage(study, decisions, assessment.slices)
            (work / OVERLAY).write_bytes(_png(render_overlay(study, assessment, montage)))
            _write_masks(work, study, decisions)
            objects, why_none = _write_dicom(work, study, decisions, assessment, models, extras=extras)
            study = replace(study, notes=(*study.notes, *why_none))
            timings = Timings(
                inference_ms=inference_ms,
                inference_ms_per_slice=inference_ms / len(study.image),
                outputs_ms=(time.perf_counter() - start) * 1e3,
            )
            report = make_report(
                study,
                models,
                assessment,
                cleaning=cleaning,
                files=(REPORT, PAGE, OVERLAY, *mask_files(study), *objects),
                timings=timings,
                identity=_identity(study) if extras.identify else None,
            )
            (work / REPORT).write_text(report.to_json(), encoding="utf-8")
            (work / PAGE).write_text(render_page(report, _png(montage)), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror or error}: choose another --out") from None
    return report


def mask_files(study: Study) -> tuple[str, ...]:
    """The names of the mask files: PNG for an image, compressed NIfTI for everything else."""
    suffix = ".png" if study.kind == "image" else ".nii.gz"
    return tuple(name + suffix for name in MASKS)


def check_replaceable(folder: Path) -> None:
    """Refuse to write a result over something that is not one.

    Raises:
        UsageError: ``folder`` is there and is not a folder of an earlier result, or an empty one.
    """
    if not folder.exists():
        return
    there = {entry.name for entry in folder.iterdir()} if folder.is_dir() else {folder.name}
    if there and not (REPORT in there and there <= KNOWN_FILES):
        raise UsageError(f"{folder} is not a result of an earlier run and will not be replaced: choose another --out")


def _write_masks(folder: Path, study: Study, decisions: Decisions) -> None:
    masks = (decisions.lesion_mask, decisions.lesion_types, decisions.lung_mask)
    files = [folder / name for name in mask_files(study)]
    if study.kind == "image":
        for file, mask in zip(files, masks, strict=True):
            file.write_bytes(_png(mask[0]))
        return
    with ThreadPoolExecutor(len(files)) as threads:
        for _ in threads.map(lambda file, mask: write_mask(file, mask, study), files, masks):
            pass


def _write_dicom(
    folder: Path,
    study: Study,
    decisions: Decisions,
    assessment: Assessment,
    models: Sequence[ModelRecord],
    *,
    extras: Extras,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the objects, and the note why there are none where they were asked for."""
    if study.dicom is None or not extras.dicom:
        return (), ()
    # highdicom takes a second to import, and is an extra.
    from .dicom_out import NoObjectsError, write_dicom

    try:
        write_dicom(folder, study, decisions, assessment, models)
    except NoObjectsError as error:
        if extras.needs_dicom:
            raise UsageError(f"{error}: leave out --dicom") from None
        for name in DICOM_FILES:
            (folder / name).unlink(missing_ok=True)
        return (), (f"No DICOM objects were made: {error}",)
    return DICOM_FILES, ()


def _identity(study: Study) -> Identity | None:
    if study.dicom is None:
        return None
    from ..model.readers.dicom.identity import read_identity

    return read_identity(study.dicom)


def _png(pixels: Canvas) -> bytes:
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise UsageError(f"OpenCV does not encode a picture of {list(pixels.shape)} pixels")
    return data.tobytes()
