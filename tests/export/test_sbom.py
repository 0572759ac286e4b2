"""The bill of materials: valid by the official schema, true to the bundle, the same every time."""

import json
from typing import Any

import pytest
from coronanet.engines.bundle import Bundle
from coronanet.export.sbom import SBOM, bill_of_materials
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


@pytest.fixture(scope="module")
def bill(tiny_bundle: Bundle) -> dict[str, Any]:
    return json.loads((tiny_bundle.path / SBOM).read_text())


def schema_error(bill: dict[str, Any]) -> object:
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))


def test_it_is_valid_by_the_official_schema(bill: dict[str, Any]) -> None:
    assert schema_error(bill) is None


def test_the_schema_sees_a_key_that_is_not_in_it(bill: dict[str, Any]) -> None:
    assert schema_error({**bill, "colour": "red"}) is not None


def test_it_is_a_file_of_the_manifest(tiny_bundle: Bundle) -> None:
    (record,) = (file for file in tiny_bundle.manifest.files if file.kind == "sbom")
    assert record.path == SBOM


def test_the_network_is_known_by_its_weights_and_carries_the_licence_of_its_card(
    tiny_bundle: Bundle, bill: dict[str, Any]
) -> None:
    hashes = {file.path: file.sha256 for file in tiny_bundle.manifest.files}
    network = bill["metadata"]["component"]
    assert network["type"] == "machine-learning-model"
    assert network["hashes"] == [{"alg": "SHA-256", "content": hashes["weights.safetensors"]}]
    assert network["licenses"][0]["license"]["text"]["content"] == tiny_bundle.card.licence
    assert network["modelCard"]["modelParameters"]["task"] == tiny_bundle.card.task


def test_every_other_file_stands_in_it_with_its_hash(tiny_bundle: Bundle, bill: dict[str, Any]) -> None:
    listed = {part["name"]: part["hashes"][0]["content"] for part in bill["components"] if part["type"] == "file"}
    assert listed == {file.path: file.sha256 for file in tiny_bundle.manifest.files if file.kind != "sbom"}


def test_every_tool_stands_in_it_with_its_version_and_package_url(tiny_bundle: Bundle, bill: dict[str, Any]) -> None:
    purls = {part["name"]: part["purl"] for part in bill["components"] if part["type"] == "library"}
    tools = dict(tiny_bundle.manifest.tools)
    (maker,) = bill["metadata"]["tools"]["components"]
    assert maker["version"] == tools.pop("coronanet")
    assert purls.keys() == tools.keys() >= {"torch", "onnx", "onnxruntime", "numpy"}
    assert purls["numpy"] == f"pkg:pypi/numpy@{tools['numpy']}"


def test_a_local_version_is_escaped_in_the_package_url(tiny_bundle: Bundle) -> None:
    tools = {"coronanet": "0.1.0", "Odd_Name": "2.13.0+cpu"}
    bill = bill_of_materials(tiny_bundle.manifest.model_copy(update={"tools": tools}), tiny_bundle.card)
    assert [part["purl"] for part in bill["components"] if "purl" in part] == ["pkg:pypi/odd-name@2.13.0%2Bcpu"]


def test_the_same_bundle_gives_the_same_bytes_and_another_another_serial_number(
    tiny_bundle: Bundle, bill: dict[str, Any]
) -> None:
    files = tuple(file for file in tiny_bundle.manifest.files if file.kind != "sbom")
    manifest = tiny_bundle.manifest.model_copy(update={"files": files})
    assert bill_of_materials(manifest, tiny_bundle.card) == bill
    assert bill["metadata"]["timestamp"] == manifest.created
    changed = bill_of_materials(manifest.model_copy(update={"created": "2026-01-01T00:00:00+00:00"}), tiny_bundle.card)
    assert changed["serialNumber"] != bill["serialNumber"]


def test_a_checkout_that_is_not_installed_has_no_version_and_says_so(tiny_bundle: Bundle) -> None:
    tools = {name: version for name, version in tiny_bundle.manifest.tools.items() if name != "coronanet"}
    bill = bill_of_materials(tiny_bundle.manifest.model_copy(update={"tools": tools}), tiny_bundle.card)
    assert schema_error(bill) is None
    (maker,) = bill["metadata"]["tools"]["components"]
    assert (maker["name"], maker["version"]) == ("coronanet", "not installed")
