"""The published schemas of what the harness writes: ``docs/schemas/NAME-VERSION.schema.json``."""

from typing import Any

from .report import SCHEMA_VERSION, CompareReport, Document, EngineReport
from .serving_report import ServingReport
from .study_report import StudyReport
from .waterfall_report import WaterfallReport

#: What is written, by the name of its schema.
DOCUMENTS: dict[str, type[Document]] = {
    "bench-compare": CompareReport,
    "bench-engines": EngineReport,
    "bench-serving": ServingReport,
    "bench-waterfall": WaterfallReport,
    "bench-study": StudyReport,
}


def document_schema(name: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of a document as it is written: every field is there, whether it has a default or not.

    Args:
        name: a key of `DOCUMENTS`.
    """
    schema = DOCUMENTS[name].model_json_schema(mode="serialization")
    for part in (schema, *schema["$defs"].values()):
        part["required"] = list(part["properties"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{name}-{SCHEMA_VERSION}.schema.json",
        **schema,
        "title": f"Corona-Net {name.replace('-', ' ')}, version {SCHEMA_VERSION}",
    }
