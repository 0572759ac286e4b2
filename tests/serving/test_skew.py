"""The skew gate against the real Triton server: a repository that was changed together with its hashes is refused."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from coronanet import cli
from coronanet.engines.bundle import Bundle
from coronanet.engines.skew import hold_server, loosest, models_behind
from coronanet.engines.slices import GateSlices, gate_slices, phantom_slices
from coronanet.engines.triton_connection import Connection
from coronanet.engines.triton_wire import ServedStep
from coronanet.model.tasks import TASK_NAMES, TaskName
from coronanet.serving.addresses import ANY_PORTS, Ports
from coronanet.serving.server import TritonServer
from onnx import numpy_helper

INDEX = Path("coronanet/1/repository.json")


@pytest.fixture(scope="module")
def slices() -> GateSlices:
    return replace(phantom_slices(), samples=phantom_slices().samples[2:6])


@pytest.fixture(scope="module", params=["phantom", "real"])
def slices_of(request: pytest.FixtureRequest, slices: GateSlices) -> Callable[[TaskName], GateSlices]:
    """The slices for a task: the phantom, and the real ones of training and validation sets that its gates see."""
    if request.param == "phantom":
        return lambda _: slices
    return partial(gate_slices, request.getfixturevalue("data"))


def _change_mean(model: onnx.ModelProto) -> None:
    """The last subtraction: the mean of the normalisation, by a hundredth."""
    node = [node for node in model.graph.node if node.op_type == "Sub"][-1]
    _replace(model, node, 1, lambda mean: mean + np.float32(0.01))


def _change_window(model: onnx.ModelProto) -> None:
    """The upper end of the window, by 50 HU."""
    (node,) = [node for node in model.graph.node if node.op_type == "Clip"]
    _replace(model, node, 2, lambda high: high - np.float32(50))


def _change_resize(model: onnx.ModelProto) -> None:
    """Bilinear to nearest."""
    (node,) = [node for node in model.graph.node if node.op_type == "Resize"]
    next(attribute for attribute in node.attribute if attribute.name == "mode").s = b"nearest"


def _change_threshold(model: onnx.ModelProto) -> None:
    """Logits that are one too high when they are decided."""
    shift = numpy_helper.from_array(np.asarray(1, np.float32), "shift")
    model.graph.initializer.append(shift)
    for node in model.graph.node:
        node.input[:] = ["shifted" if name == "logits" else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Add", ["logits", "shift"], ["shifted"]))


def _second_output(model: onnx.ModelProto) -> None:
    """The logits, once more."""
    model.graph.node.append(onnx.helper.make_node("Identity", ["logits"], ["second"]))
    (logits,) = model.graph.output
    model.graph.output.append(logits)
    model.graph.output[1].name = "second"


def _replace(model: onnx.ModelProto, node: Any, index: int, change: Callable[[Any], Any]) -> None:
    """A constant of one node alone, whoever else reads the old one."""
    (old,) = [each for each in model.graph.initializer if each.name == node.input[index]]
    new = numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(old)), np.float32), "changed")
    model.graph.initializer.append(new)
    node.input[index] = "changed"


def _changed(repository: Path, copy: Path, step: str, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A repository with a changed step, every hash made to fit: nothing in it tells."""
    shutil.copytree(repository, copy)
    folder = copy / step / "1"
    described = json.loads((folder / "step.json").read_text())
    file = folder / described["file"]
    model = onnx.load(file)
    change(model)
    onnx.checker.check_model(model)
    onnx.save(model, file)
    described["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "step.json").write_text(json.dumps(described))
    _index_again(copy)
    return copy


def _index_again(repository: Path) -> None:
    index = json.loads((repository / INDEX).read_text())
    index["files"] = {name: hashlib.sha256((repository / name).read_bytes()).hexdigest() for name in index["files"]}
    (repository / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("step", "change", "said"),
    [
        (
            "preprocess",
            _change_mean,
            r"the step preprocess \(model preprocess\) differs from torch fp32: pixels differ",
        ),
        ("preprocess", _change_window, r"the step preprocess \(model preprocess\) differs from torch fp32: pixels"),
        ("preprocess", _change_resize, r"the step preprocess \(model preprocess\) differs from torch fp32: pixels"),
        (
            "decide_classification",
            _change_threshold,
            r"the step decide \(model decide_classification\) differs from torch fp32: ",
        ),
    ],
    ids=["mean", "window", "resize", "threshold"],
)
def test_a_changed_step_is_refused_by_its_name(
    small_repository: Path,
    bundles: dict[TaskName, Bundle],
    slices: GateSlices,
    tmp_path: Path,
    step: str,
    change: Callable[[onnx.ModelProto], None],
    said: str,
) -> None:
    changed = _changed(small_repository, tmp_path / "triton_repo", step, change)
    with TritonServer(changed, ports=ANY_PORTS, log=tmp_path / "log") as server:
        held = hold_server(bundles["classification"], slices, Connection(server.address))
    refusals = [each for each in held if each.refusal]
    assert re.match(f"classification: {said}", refusals[0].refusal)
    steps = {each.what for each in refusals} - {"ensemble"}
    assert steps == {"preprocess" if step == "preprocess" else "decide"}, "the others are as they were"


def test_a_network_with_two_outputs_is_refused_by_their_names(
    small_repository: Path, bundles: dict[TaskName, Bundle], slices: GateSlices, tmp_path: Path
) -> None:
    changed = _changed(small_repository, tmp_path / "triton_repo", "classification", _second_output)
    step, config = changed / "classification/1/step.json", changed / "classification/config.pbtxt"
    described = json.loads(step.read_text())
    described["outputs"].append({**described["outputs"][0], "name": "second"})
    step.write_text(json.dumps(described))
    config.write_text(config.read_text() + 'output { name: "second" data_type: TYPE_FP32 dims: 1 }\n')
    _index_again(changed)
    with TritonServer(changed, ports=ANY_PORTS, log=tmp_path / "log") as server:
        held = hold_server(bundles["classification"], slices, Connection(server.address))
    refusals = {each.what: each.evidence.reason for each in held if each.refusal}
    assert refusals == {"network": "expected one output, got logits, second"}


@pytest.mark.parametrize("task", ["lung_segmentation", "multiclass_segmentation"])
def test_what_serves_the_bundles_passes_step_by_step(
    bundles: dict[TaskName, Bundle],
    slices_of: Callable[[TaskName], GateSlices],
    triton_server: TritonServer,
    task: TaskName,
) -> None:
    given = slices_of(task)
    held = hold_server(bundles[task], given, Connection(triton_server.address))
    assert [(each.what, each.model, each.evidence.verdict) for each in held] == [
        ("bundle", "onnxruntime fp32", "passed"),
        ("preprocess", "preprocess", "passed"),
        ("network", task, "passed"),
        ("decide", f"decide_{task}", "passed"),
        ("ensemble", "coronanet", "passed"),
    ]
    assert all(each.evidence.slices == len(given.samples) for each in held)
    assert held[1].evidence.max_difference is not None
    assert held[1].evidence.max_difference < 1e-3


def test_an_ensemble_without_the_task_is_not_compared(
    small_repository: Path, bundles: dict[TaskName, Bundle], slices: GateSlices, tmp_path: Path
) -> None:
    with TritonServer(small_repository, ports=ANY_PORTS, log=tmp_path / "log") as server:
        held = hold_server(bundles["lung_segmentation"], slices, Connection(server.address))
    assert (held[-1].what, held[-1].evidence.verdict) == ("ensemble", "not_run")
    assert "has no lung_mask" in held[-1].evidence.reason


def _verify(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["verify", *arguments])
    said = capsys.readouterr()
    return int(stopped.value.code or 0), said.out, said.err


@pytest.fixture
def one_slice(slices: GateSlices, tmp_path: Path) -> list[str]:
    """The options that name a folder with one slice."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    grey = np.clip((slices.images[0].astype(np.float32) + 1350) * (255 / 1500), 0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "data" / "images" / "one.png"), grey)
    return ["--data", str(tmp_path / "data"), "--window", "lung"]


@pytest.fixture
def real_data(data: Path) -> list[str]:
    return ["--data", str(data)]


@pytest.mark.parametrize("source", ["one_slice", "real_data"])
def test_verify_ends_with_exit_code_1_and_the_name_of_the_step_that_was_changed(
    request: pytest.FixtureRequest,
    small_repository: Path,
    bundles: dict[TaskName, Bundle],
    tmp_path: Path,
    source: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: list[str] = request.getfixturevalue(source)
    changed = _changed(small_repository, tmp_path / "triton_repo", "preprocess", _change_mean)
    with TritonServer(changed, ports=ANY_PORTS, log=tmp_path / "log") as server:
        code, out, error = _verify(["--server", server.address, *options, "--json"], capsys)
    answer = json.loads(out)
    said = "classification: the step preprocess (model preprocess) differs from torch fp32: pixels differ"
    assert (code, answer["exit_code"], answer["verdict"], answer["synthetic"]) == (1, 1, "refused", False)
    assert answer["refusals"][0].startswith(said)
    assert f"error: {said}" in error
    refused = {(each["task"], each["what"]) for each in answer["held"] if each["verdict"] == "refused"}
    assert ("classification", "preprocess") in refused
    assert refused <= {("classification", "preprocess"), ("classification", "ensemble")}


def test_verify_says_so_for_people_and_programs(
    triton_server: TritonServer,
    bundles: dict[TaskName, Bundle],
    one_slice: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, error = _verify(["--server", triton_server.address, *one_slice, "--json"], capsys)
    answer = json.loads(out)
    assert (code, answer["exit_code"], answer["verdict"], answer["refusals"]) == (0, 0, "passed", []), error
    assert {each["task"] for each in answer["held"]} == set(TASK_NAMES)
    assert {each["slices"] for each in answer["held"]} == {1}
    assert not answer["synthetic"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "expected a bundle's folder, or --server HOST:PORT"),
        (["bundle", "--server", "127.0.0.1:1"], "expected a bundle's folder, or --server HOST:PORT"),
        (["bundle", "--precision", "fp16"], "are for --server"),
        (["--server", "127.0.0.1:1", "--precision", "half"], "no precision 'half'"),
        (["--server", "127.0.0.1"], "expected HOST:PORT"),
        (["--tls", "bundle"], "are for --server"),
    ],
)
def test_wrong_use_is_exit_2(
    bundles: dict[TaskName, Bundle], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, error = _verify(arguments, capsys)
    assert (code, out) == (2, "")
    assert said in error


def test_a_server_that_does_not_answer_is_exit_2(
    bundles: dict[TaskName, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = _verify(["--server", f"127.0.0.1:{Ports.free().grpc}"], capsys)
    assert code == 2
    assert "no Triton server answers" in error


def test_the_chain_is_read_from_the_wiring_not_from_names() -> None:
    steps = (
        ServedStep("a", {"image": "image"}, {"pixels": "p"}),
        ServedStep("b", {"pixels": "p"}, {"logits": "l"}),
        ServedStep("c", {"logits": "l", "image": "image"}, {"mask": "lung_mask"}),
        ServedStep("whole", {"image": "image"}, {"mask": "lesion_mask"}),
    )
    assert models_behind(steps, "lung_mask") == {"decide": "c", "network": "b", "preprocess": "a"}
    assert models_behind(steps, "lesion_mask") == {}
    assert models_behind(steps, "lesion_types") == {}


def test_the_networks_may_differ_as_much_as_the_loosest_form_of_the_bundle(bundles: dict[TaskName, Bundle]) -> None:
    bundle = bundles["classification"]
    files = tuple(record for record in bundle.manifest.files if record.precision != "int8")
    assert loosest(bundle.with_manifest(bundle.manifest.model_copy(update={"files": files}))) == "bf16"
