"""``report.json`` fits its published schema, whatever was read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from coronanet.model.assessment import assess
from coronanet.model.findings import Decisions
from coronanet.model.lungs import Cleaning, keep_lungs
from coronanet.model.phantom import make_labelled_phantom
from coronanet.model.study import Study
from coronanet.model.tasks import TASK_NAMES
from coronanet.serving.report import SCHEMA_VERSION, ModelRecord, Report, Timings, make_report, report_schema

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "schemas" / f"report-{SCHEMA_VERSION}.schema.json"


def a_report(study: Study, decisions: Decisions, cleaning: Cleaning | None = None) -> Report:
    models = [ModelRecord(name, "ab" * 32, "onnxruntime", "fp32") for name in TASK_NAMES]
    return make_report(
        study,
        models,
        assess(study, decisions),
        cleaning=cleaning or keep_lungs(decisions),
        files=("report.json",),
        timings=Timings(1.0, 1.0, 1.0),
    )


def of_phantom() -> Report:
    phantom = make_labelled_phantom(size=64, slices=24)
    masks = (phantom.lesion_mask, phantom.lesion_types, phantom.lung_mask)
    return a_report(phantom.study, Decisions(np.full(24, 0.9, np.float32), *masks))


def of_image() -> Report:
    image = np.full((1, 8, 8), -800, np.int16)
    masks = [np.zeros((1, 8, 8), np.uint8) for _ in range(3)]
    study = Study("x", image, "image", window_hu=(-1350.0, 150.0))
    return a_report(study, Decisions(np.zeros(1, np.float32), *masks))


def schema() -> dict[str, Any]:
    return json.loads(SCHEMA.read_text(encoding="utf-8"))


def test_the_published_schema_is_a_schema_and_that_of_the_code() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema() == report_schema(), f"write json.dumps(report_schema(), indent=2) to {SCHEMA.name}"


@pytest.mark.parametrize("make", [of_phantom, of_image])
def test_reports_fit_the_schema(make: Callable[[], Report]) -> None:
    report = json.loads(make().to_json())
    jsonschema.validate(report, schema())
    assert report["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize("change", ["missing", "extra", "version"])
def test_anything_else_does_not_fit(change: str) -> None:
    report = json.loads(of_phantom().to_json())
    if change == "missing":
        del report["severity"]["surrogate_score"]
    elif change == "extra":
        report["severity"]["whole"]["patient"] = "somebody"
    else:
        report["schema_version"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, schema())


def test_the_score_is_called_a_surrogate_wherever_it_stands() -> None:
    report = json.loads(of_phantom().to_json())
    assert report["severity"]["surrogate_score"]["total"] > 0
    assert "surrogate" in report["severity"]["surrogate_score"]["note"].lower()
    assert all("surrogate" in path for path in paths_to(report, "points"))


def paths_to(value: object, key: str, path: str = "") -> list[str]:
    if isinstance(value, dict):
        here = [path] if key in value else []
        return here + [found for name, item in value.items() for found in paths_to(item, key, f"{path}/{name}")]
    if isinstance(value, list):
        return [found for item in value for found in paths_to(item, key, path)]
    return []
