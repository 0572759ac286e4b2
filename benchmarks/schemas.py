"""The published schemas of what the harness writes: ``docs/schemas/NAME-VERSION.schema.json``."""

from typing import Any

from .report import SCHEMA_VERSION, CompareReport, Document, EngineReport, ProofReport
from .serving_report import ServingReport
from .study_report import StudyReport
from .waterfall_report import WaterfallReport

#: What is written, by the name of its schema.
DOCUMENTS: dict[str, type[Document]] = {
    "bench-compare": CompareReport,
    "bench-engines": EngineReport,
    "bench-prove": ProofReport,
    "bench-serving": ServingReport,
    "bench-waterfall": WaterfallReport,
    "bench-study": StudyReport,
}

#: Fields that version 2 gained after reports were published: old ones lack them and still fit.
LATER: dict[str, tuple[str, ...]] = {
    "Comparison": ("rounds",),
    "Plan": ("least_rounds",),
    "WaterfallResult": ("errors",),
}


def document_schema(name: str) -> dict[str, Any]:
    """JSON Schema (2020-12) of a document as it is written: every field is there, whether it has a default or not.

    Those of `LATER` alone may be missing.

    Args:
        name: a key of `DOCUMENTS`.
    """
    schema = DOCUMENTS[name].model_json_schema(mode="serialization")
    for part in (schema, *schema["$defs"].values()):
        part["required"] = [field for field in part["properties"] if field not in LATER.get(part["title"], ())]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{name}-{SCHEMA_VERSION}.schema.json",
        **schema,
        "title": f"Corona-Net {name.replace('-', ' ')}, version {SCHEMA_VERSION}",
    }
