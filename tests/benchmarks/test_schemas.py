"""What the harness writes fits the schemas that are published."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from coronanet.benchmarks.report import SCHEMA_VERSION, EngineReport
from coronanet.benchmarks.schemas import DOCUMENTS, document_schema
from coronanet.benchmarks.serving_report import ServingReport

ROOT = Path(__file__).resolve().parents[2]
MEASUREMENTS = sorted(
    path for path in (ROOT / "docs" / "measurements").rglob("*.json") if path.parent.name != "without-the-harness"
)


def schema(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "docs" / "schemas" / f"{name}-{SCHEMA_VERSION}.schema.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_published_schema_is_a_schema_and_that_of_the_code(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(schema(name))
    assert schema(name) == document_schema(name), f"write json.dumps(document_schema({name!r}), indent=2) to its file"


def test_reports_fit_and_what_is_missing_unknown_or_of_another_version_does_not(
    engines: EngineReport, serving: ServingReport
) -> None:
    for name, report in (("bench-engines", engines), ("bench-serving", serving)):
        value = json.loads(report.to_json())
        jsonschema.validate(value, schema(name))
        without = {key: part for key, part in value.items() if key != "protocol"}
        for broken in (without, {**value, "more": 1}, {**value, "schema_version": 1}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(broken, schema(name))


@pytest.mark.parametrize("path", MEASUREMENTS, ids=lambda path: path.name)
def test_the_measurements_in_the_documentation_fit(path: Path) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    (name,) = (name for name in DOCUMENTS if path.stem.endswith(name.removeprefix("bench-")))
    jsonschema.validate(value, schema(name))
