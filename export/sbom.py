"""The bill of materials of a bundle: CycloneDX 1.6 as JSON (ECMA-424), made of its manifest and its card alone."""

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..engines.bundle import WEIGHTS, FileRecord, Manifest, hash_file
from ..engines.machine import NOT_INSTALLED
from ..model.card import Card

SBOM = "sbom.json"
#: What wrote the bundle; it is not on a package index, so it has no purl.
MAKER = "coronanet"
MODEL = "model"


def add_sbom(manifest: Manifest, card: Card, folder: Path) -> Manifest:
    """Write ``sbom.json`` beside the files of a finished manifest; that manifest with the new file in it."""
    path = folder / SBOM
    path.write_text(json.dumps(bill_of_materials(manifest, card), indent=2) + "\n", encoding="utf-8")
    record = FileRecord(path=SBOM, sha256=hash_file(path), bytes=path.stat().st_size, kind="sbom")
    return manifest.model_copy(update={"files": (*manifest.files, record)})


def bill_of_materials(manifest: Manifest, card: Card) -> dict[str, Any]:
    """The network, its files and the packages that made them.

    The same manifest and card give the same bytes: the serial number comes from the content, the time from the
    manifest.
    """
    files = [_file(record) for record in manifest.files]
    packages = [_package(name, version) for name, version in manifest.tools.items() if name != MAKER]
    parts: list[str] = [part["bom-ref"] for part in (*files, *packages)]
    maker = {"type": "application", "name": MAKER, "version": manifest.tools.get(MAKER, NOT_INSTALLED)}
    content = {
        "metadata": {
            "timestamp": manifest.created,
            "tools": {"components": [maker]},
            "component": _model(manifest, card),
        },
        "components": [*files, *packages],
        "dependencies": [{"ref": MODEL, "dependsOn": parts}, *({"ref": part} for part in parts)],
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, digest).urn,
        "version": 1,
        **content,
    }


def _model(manifest: Manifest, card: Card) -> dict[str, Any]:
    """The network itself, known by the hash of its weights."""
    weights = next(record for record in manifest.files if record.path == WEIGHTS)
    metrics = [{"type": name, "value": str(value)} for name, value in card.validation.items()]
    return {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": manifest.name,
        "description": card.intended_use,
        "hashes": _hashes(weights),
        "licenses": [{"license": {"name": "licence of the weights", "text": {"content": card.licence}}}],
        "modelCard": {
            "modelParameters": {
                "task": card.task,
                "architectureFamily": card.network.family,
                "datasets": [{"type": "dataset", "name": name} for name in card.training_data.sources],
                "inputs": [{"format": "int16 Hounsfield units [N, H, W]"}],
                "outputs": [{"format": ", ".join(card.labels)}],
            },
            "quantitativeAnalysis": {"performanceMetrics": metrics},
            "considerations": {"useCases": [card.intended_use]},
        },
    }


def _file(record: FileRecord) -> dict[str, Any]:
    facts = {"kind": record.kind, "graph": record.graph, "precision": record.precision}
    return {
        "type": "file",
        "bom-ref": record.path,
        "name": record.path,
        "hashes": _hashes(record),
        "properties": [{"name": f"{MAKER}:{name}", "value": value} for name, value in facts.items() if value],
    }


def _package(name: str, version: str) -> dict[str, Any]:
    """A package of PyPI under its package URL (github.com/package-url/purl-spec)."""
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _hashes(record: FileRecord) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": record.sha256}]
