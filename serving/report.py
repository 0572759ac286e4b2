"""``report.json``: what was read, what decided, what was found and what it amounts to."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from ..engines.machine import NOT_INSTALLED, installed_version
from ..model.assessment import Assessment
from ..model.findings import SliceFindings, StudyFindings
from ..model.identity import Identity
from ..model.lungs import Cleaning
from ..model.quality import Flag
from ..model.risk import BandName, RiskStatement, severity_band
from ..model.scratch import planes
from ..model.severity import Severity
from ..model.study import SourceKind, Study
from ..model.tasks import TASK_NAMES, TASKS, TaskName
from .overlay import DISCLAIMER

SCHEMA_VERSION = 2
REPORT = "report.json"
PAGE = "report.html"
OVERLAY = "overlay.png"
#: What ``--dicom`` adds: a Segmentation and a Structured Report.
DICOM_FILES = ("segmentation.dcm", "report-sr.dcm")
#: The list of all studies of a run, beside their folders.
TRIAGE = "triage.csv"


@dataclass(frozen=True)
class ModelRecord:
    """A network that decided: its bundle and how it ran; a server that is not ours does not tell hash and precision."""

    task: TaskName
    bundle_sha256: str | None
    backend: str
    precision: str | None


#: Networks behind a server that does not tell what they are.
UNTOLD = tuple(ModelRecord(name, None, "triton", None) for name in TASK_NAMES)


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
    """Milliseconds that this study took: ``inference_ms`` until every slice was read and decided, which go on beside
    each other, ``outputs_ms`` for the overlay and the masks.
    """

    inference_ms: float
    inference_ms_per_slice: float
    outputs_ms: float


@dataclass(frozen=True)
class Report:
    """``report.json``, version 2; its schema is ``docs/schemas/report-2.schema.json``.

    ``band`` is the severity band of the surrogate score (``model/risk.toml``), None where there is no score. All
    figures are of the masks that are written, which ``cleaning`` is gone from. ``identity`` is None unless the user
    asked for it, and for everything that is not DICOM.
    """

    schema_version: int
    disclaimer: str
    coronanet: str
    created: str
    input: InputRecord
    identity: Identity | None
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


def make_report(
    study: Study,
    models: Sequence[ModelRecord],
    assessment: Assessment,
    *,
    cleaning: Cleaning,
    files: Sequence[str],
    timings: Timings,
    identity: Identity | None = None,
) -> Report:
    """The report of a study; no pixel is in it, and nothing of a patient's record but ``identity``."""
    count, rows, columns = study.image.shape
    return Report(
        schema_version=SCHEMA_VERSION,
        disclaimer=DISCLAIMER,
        coronanet=installed_version("coronanet") or NOT_INSTALLED,
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
        identity=identity,
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
        files=tuple(files),
        timings=timings,
    )


def _sha256(image: NDArray[np.int16]) -> str:
    """Of the HU in order."""
    digest = hashlib.sha256()
    for (plane,) in planes(image):
        digest.update(np.ascontiguousarray(plane).data)
    return digest.hexdigest()


def report_schema() -> dict[str, Any]:
    """The JSON schema of ``report.json``: every key is there, and no other."""
    schema = TypeAdapter(Report).json_schema(mode="serialization")
    for part in (schema, *schema["$defs"].values()):
        part["additionalProperties"] = part.get("additionalProperties", False)
        part["required"] = list(part["properties"])
    schema["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"report-{SCHEMA_VERSION}.schema.json",
        **schema,
        "title": f"Corona-Net report, version {SCHEMA_VERSION}",
    }
