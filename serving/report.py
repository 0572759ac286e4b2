"""What a person opens after a prediction: ``report.json``, ``overlay.png`` and the masks, in one folder, whole or not
at all.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..engines.bundle import publish
from ..model.assessment import Assessment, assess
from ..model.errors import UsageError
from ..model.findings import Decisions, SliceFindings, StudyFindings
from ..model.lungs import Cleaning
from ..model.quality import Flag
from ..model.readers.nifti import to_file_grid
from ..model.risk import BandName, RiskStatement, severity_band
from ..model.severity import Severity
from ..model.study import SourceKind, Study
from ..model.tasks import TASKS, TaskName
from .overlay import DISCLAIMER, render_overlay

SCHEMA_VERSION = 2
REPORT = "report.json"
OVERLAY = "overlay.png"
#: In the order of ``Decisions``.
MASKS = ("lesion_mask", "lesion_types", "lung_mask")
#: What ``--dicom`` adds: a Segmentation and a Structured Report.
DICOM_FILES = ("segmentation.dcm", "report-sr.dcm")
#: Everything that a result's folder can hold; a folder with anything else is not ours to replace.
KNOWN_FILES = frozenset(
    {REPORT, OVERLAY, *DICOM_FILES, *(name + suffix for name in MASKS for suffix in (".png", ".nii.gz"))}
)

#: NIfTI's qform and sform codes of coordinates in the scanner, where the input has none.
SCANNER = (1, 1)


@dataclass(frozen=True)
class ModelRecord:
    """A network that decided: its bundle and how it ran; a server does not tell the hash and the precision."""

    task: TaskName
    bundle_sha256: str | None
    backend: str
    precision: str | None


@dataclass(frozen=True)
class InputRecord:
    """What was read; ``image_sha256`` is of the int16 HU, ``spacing_mm`` between slices, rows and columns;
    ``tells_sides`` is whether the input records which side is the patient's right.
    """

    name: str
    kind: SourceKind
    synthetic: bool
    slices: int
    rows: int
    columns: int
    spacing_mm: tuple[float, float, float] | None
    tells_sides: bool
    window_hu: tuple[float, float] | None
    image_sha256: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Timings:
    """Milliseconds that this study took; ``outputs_ms`` is for the figures, the overlay and the masks."""

    inference_ms: float
    inference_ms_per_slice: float
    outputs_ms: float


@dataclass(frozen=True)
class Report:
    """``report.json``, version 2; its schema is ``docs/schemas/report-2.schema.json``.

    ``band`` is the severity band of the surrogate score (``model/risk.toml``), None where there is no score. All
    figures are of the masks that are written, which ``cleaning`` is gone from.
    """

    schema_version: int
    disclaimer: str
    coronanet: str
    created: str
    input: InputRecord
    models: tuple[ModelRecord, ...]
    labels: dict[str, dict[str, str]]
    findings: StudyFindings
    severity: Severity
    band: BandName | None
    risk: tuple[RiskStatement, ...]
    quality: tuple[Flag, ...]
    cleaning: Cleaning
    slices: tuple[SliceFindings, ...]
    files: tuple[str, ...]
    timings: Timings

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"


def write_result(
    folder: Path,
    study: Study,
    decisions: Decisions,
    models: Sequence[ModelRecord],
    *,
    cleaning: Cleaning,
    inference_ms: float,
) -> Report:
    """Write the folder of a study: report, overlay and masks, or, where anything fails, nothing.

    A folder of an earlier result is replaced.

    Raises:
        UsageError: something else already has the folder's name, or it cannot be written.
    """
    check_replaceable(folder)
    start = time.perf_counter()
    assessment = assess(study, decisions)
    try:
        with publish(folder) as work:
            _write_png(work / OVERLAY, render_overlay(study, decisions, assessment))
            _write_masks(work, study, decisions)
            timings = Timings(
                inference_ms=inference_ms,
                inference_ms_per_slice=inference_ms / len(study.image),
                outputs_ms=(time.perf_counter() - start) * 1e3,
            )
            report = make_report(study, models, assessment, cleaning, timings)
            (work / REPORT).write_text(report.to_json(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {folder}: {error.strerror or error}: choose another --out") from None
    return report


def make_report(
    study: Study,
    models: Sequence[ModelRecord],
    assessment: Assessment,
    cleaning: Cleaning,
    timings: Timings,
) -> Report:
    """The report of a study; no pixel and nothing of a patient's record is in it."""
    count, rows, columns = study.image.shape
    return Report(
        schema_version=SCHEMA_VERSION,
        disclaimer=DISCLAIMER,
        coronanet=metadata.version("coronanet"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        input=InputRecord(
            name=study.name,
            kind=study.kind,
            synthetic=study.kind == "phantom",
            slices=count,
            rows=rows,
            columns=columns,
            spacing_mm=study.spacing_mm,
            tells_sides=study.tells_sides,
            window_hu=study.window_hu,
            image_sha256=_sha256(study.image),
            notes=study.notes,
        ),
        models=tuple(models),
        labels={
            task.output: {str(value): label for value, label in enumerate(task.labels)}
            for task in TASKS.values()
            if task.is_segmentation
        },
        findings=assessment.findings,
        severity=assessment.severity,
        band=severity_band(assessment.severity.surrogate_score),
        risk=assessment.risk,
        quality=assessment.quality,
        cleaning=cleaning,
        slices=assessment.slices,
        files=(REPORT, OVERLAY, *mask_files(study)),
        timings=timings,
    )


def _sha256(image: NDArray[np.int16]) -> str:
    """Of the HU in order; slice by slice, for a copy of a long study would double it."""
    digest = hashlib.sha256()
    for plane in image:
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()


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
    for file, mask in zip(mask_files(study), masks, strict=True):
        if study.kind == "image":
            _write_png(folder / file, mask[0])
        else:
            _write_nifti(folder / file, mask, study)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise UsageError(f"cannot write {path}: OpenCV does not encode {list(pixels.shape)} pixels")
    path.write_bytes(data.tobytes())


def _write_nifti(path: Path, mask: NDArray[np.uint8], study: Study) -> None:
    """On the voxels of the NIfTI file it came from, else on the study's own, in RAS millimetres."""
    if study.nifti is not None:
        voxels, affine, codes = to_file_grid(mask, study.nifti), study.nifti.affine, study.nifti.codes
    else:
        voxels, affine, codes = mask.transpose(2, 1, 0), study.affine, SCANNER
    image = nib.Nifti1Image(voxels, affine)
    # Some programs read the one, some the other; nibabel alone would leave the qform out.
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
