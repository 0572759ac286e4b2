"""What a server tells of its networks: in its copy of the repository, over the wire, and in a report."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.engines.triton_engine import TritonEngine
from coronanet.model.errors import UsageError
from coronanet.model.phantom import make_phantom
from coronanet.model.tasks import TASK_NAMES, TaskName
from coronanet.serving.client import Client
from coronanet.serving.predict import predict_studies
from coronanet.serving.provenance import served_models
from coronanet.serving.report import UNTOLD, ModelRecord
from coronanet.serving.repository import read_index
from coronanet.serving.server import TritonServer
from coronanet.serving.snapshot import take_snapshot
from coronanet.serving.triton_config import parse_config

TOLD = {"bundle_sha256": "ab" * 32, "backend": "openvino", "precision": "int8"}


def test_only_the_servers_own_copy_tells_and_only_of_networks(small_repository: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(small_repository, tmp_path / "triton_repo")
    for config in repository.glob("*/config.pbtxt"):
        config.chmod(0o444)
    snapshot = take_snapshot(repository, read_index(repository), tmp_path / "run")
    for config in repository.glob("*/config.pbtxt"):
        own: Any = parse_config(config.read_text())
        copy: Any = parse_config((snapshot / config.relative_to(repository)).read_text())
        told = {name: value.string_value for name, value in copy.parameters.items()}
        copy.ClearField("parameters")
        assert copy == own
        assert told.keys() == (TOLD.keys() if config.parent.name == "classification" else set())


def test_the_report_of_a_served_study_names_the_bundles_that_the_server_runs(
    triton_server: TritonServer, bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path: Path
) -> None:
    with Client(triton_server.address) as client:
        models = served_models(client)
        (result,) = predict_studies(client, [make_phantom(slices=2)], tmp_path, models=models).results
    assert result.report.models == tuple(
        ModelRecord(name, bundles[name].sha256, f"{choices[name].backend} on triton", choices[name].precision)
        for name in TASK_NAMES
    )
    page = (result.folder / "report.html").read_text()
    assert all(bundle.sha256 in page for bundle in bundles.values())
    assert "not told" not in page


def _ensemble(parameters_of: Any, *steps: str) -> Any:
    return SimpleNamespace(steps=[SimpleNamespace(model=step) for step in steps], parameters_of=parameters_of)


def _refuse(model: str) -> dict[str, str]:
    raise UsageError(f"the Triton server refused {model}")


@pytest.mark.parametrize("told", [lambda _: {}, lambda _: {"precision": "fp16"}, _refuse])
def test_a_server_that_tells_nothing_or_half_is_reported_as_one(told: Any) -> None:
    assert served_models(_ensemble(told, *TASK_NAMES)) == UNTOLD


@pytest.mark.parametrize(
    "wrong",
    [
        {"bundle_sha256": ""},
        {"bundle_sha256": "ab" * 32 + "\n"},
        {"bundle_sha256": "AB" * 32},
        {"bundle_sha256": "ab" * 10_000},
        {"backend": "openvino,precision=fp64"},
        {"backend": "<b>fast</b>"},
        {"precision": "fp8"},
        {"precision": ""},
    ],
)
def test_what_a_server_of_somebody_else_tells_is_not_repeated(wrong: dict[str, str]) -> None:
    assert served_models(_ensemble(lambda _: TOLD | wrong, *TASK_NAMES)) == UNTOLD


def test_an_ensemble_of_other_models_is_asked_nothing() -> None:
    assert served_models(_ensemble(lambda _: pytest.fail("it was asked"), "lesions", "lungs")) == UNTOLD


def test_each_network_tells_for_itself() -> None:
    ensemble = _ensemble(lambda name: TOLD if name == "lung_segmentation" else {}, *TASK_NAMES)
    *others, lungs = served_models(ensemble)
    assert tuple(others) == UNTOLD[:-1]
    assert lungs == ModelRecord("lung_segmentation", "ab" * 32, "openvino on triton", "int8")


def test_a_model_that_the_server_does_not_have_tells_nothing(triton_server: TritonServer) -> None:
    with TritonEngine(triton_server.address) as engine, pytest.raises(UsageError, match="refused nonesuch"):
        engine.parameters_of("nonesuch")
