"""From card and weights to a published bundle, and what stops one."""

import json
import shutil
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from coronanet.engines import slices
from coronanet.engines.bundle import CARD, WEIGHTS, Bundle, Graph
from coronanet.engines.machine import observe_machine, saturates_int8
from coronanet.engines.slices import COUNTS, GateSlices, calibration_slices, gate_slices, phantom_slices
from coronanet.export import making, pipeline, shipped
from coronanet.export.census import take_census
from coronanet.export.options import Wanted
from coronanet.export.shipped import PRETRAINED, export_all, holds, provide_bundles
from coronanet.export.to_onnx import IR_VERSION, OPSET
from coronanet.model.card import Card
from coronanet.model.errors import RefusedError, UsageError
from coronanet.model.tasks import TASK_NAMES, TaskName
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

SMALLEST: TaskName = "lung_segmentation"
QUICK_INT8: tuple[TaskName, ...] = ("lung_segmentation", "multiclass_segmentation")


@pytest.fixture
def source(tiny_source: Path, tmp_path: Path) -> Path:
    """Card and weights of the small network, to be changed at will."""
    shutil.copytree(tiny_source, tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_graph_that_ships_passed_parity_with_torch(bundles: dict[TaskName, Bundle], task: TaskName) -> None:
    evidence = {record.path: record.evidence for record in bundles[task].manifest.files if record.kind == "onnx"}
    assert set(evidence) == {"preprocess.onnx", "decide.onnx", "network.fp32.onnx", "network.fp16.onnx"}
    for path, found in evidence.items():
        assert found is not None
        assert found.verdict == "passed", path
        assert found.label_agreement is not None
        assert found.label_agreement >= 1 - bundles[task].card.tolerance
        assert found.slices >= 8


@pytest.mark.parametrize("task", TASK_NAMES)
def test_fp16_is_half_precision_inside_and_single_at_the_edges(bundles: dict[TaskName, Bundle], task: TaskName) -> None:
    bundle = bundles[task]
    single, half = bundle.require("network", "fp32"), bundle.require("network", "fp16")
    assert half.bytes < 0.55 * single.bytes
    assert take_census(bundle.file(half), "fp16").figures["kept"] == 0
    graph = onnx.load_model(bundle.file(half)).graph
    edges = [tensor.type.tensor_type.elem_type for tensor in (*graph.input, *graph.output)]
    assert set(edges) == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("task", TASK_NAMES)
def test_files_are_of_the_recorded_opset_and_name_no_source_file(
    bundles: dict[TaskName, Bundle], task: TaskName
) -> None:
    for record in bundles[task].manifest.files:
        if record.kind != "onnx":
            continue
        content = bundles[task].file(record).read_bytes()
        model = onnx.load_model_from_string(content)
        assert model.ir_version == IR_VERSION
        assert [entry.version for entry in model.opset_import if not entry.domain] == [OPSET] == [record.opset]
        assert b".py" not in content


@pytest.mark.slow
@pytest.mark.xdist_group("int8")  # long enough for the other process to take
@pytest.mark.parametrize(
    "task", [name if name in QUICK_INT8 else pytest.param(name, marks=pytest.mark.long) for name in TASK_NAMES]
)
def test_int8_of_what_ships_keeps_almost_nothing_back_and_is_not_inferior(
    task: TaskName, data: Path, tmp_path: Path
) -> None:
    if saturates_int8(observe_machine().cpu_features):
        pytest.skip("sums of int8 products overflow on this CPU, which has no VNNI: more must be kept back")
    judged = gate_slices(data, task)
    wanted = Wanted(calibration=calibration_slices(data).without(judged))
    bundle = pipeline.export_bundle(PRETRAINED / task, tmp_path, judged, wanted)
    record = bundle.require("network", "int8")
    assert record.is_proved
    gates = {gate.gate: gate for gate in record.gates}
    assert gates["precision"].figures["kept"] <= 4
    assert gates["precision"].figures["in_precision"] >= 45
    changes = [value for name, value in gates["non_inferiority"].figures.items() if name.endswith("_change_low")]
    assert changes[0] >= -gates["non_inferiority"].figures["margin"]
    assert record.bytes < 0.35 * bundle.require("network").bytes


class WouldExportError(Exception):
    """With the slices of the gates and those for the ranges of int8."""


@pytest.mark.parametrize("task", TASK_NAMES)
def test_int8_is_judged_by_no_slice_that_its_ranges_came_from(
    task: TaskName, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_source: Path, _out: Path, judged: GateSlices, wanted: Wanted, **_: object) -> Bundle:
        raise WouldExportError(judged, wanted.calibration)

    monkeypatch.setattr(slices, "COUNTS", COUNTS)  # as many as of a user's export
    monkeypatch.setattr(pipeline, "export_bundle", ask)
    with pytest.raises(WouldExportError) as caught:
        export_all([PRETRAINED / task], tmp_path, int8=True, data=data)
    judged, calibrated = ({image.tobytes() for image in each.images} for each in caught.value.args)
    assert not judged & calibrated
    assert len(calibrated) >= 16


def test_where_every_slice_is_judged_an_optional_int8_is_left_out_and_a_wanted_one_says_why(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "find_calibration", lambda *_: phantom_slices())
    monkeypatch.setattr(shipped, "find_slices", lambda *_: phantom_slices())
    monkeypatch.setattr(shipped, "slices_at_hand", lambda *_: phantom_slices())
    made = export_all([tiny_source], tmp_path / "optional", int8=True, optional=True, data=None)
    assert made[SMALLEST].manifest.graph("network", "int8") is None
    with pytest.raises(UsageError, match="int8 needs others for its ranges"):
        export_all([tiny_source], tmp_path / "wanted", int8=True, data=None)
    assert not (tmp_path / "wanted").exists()


def test_slices_that_are_all_judged_leave_none_for_int8() -> None:
    phantom = phantom_slices()
    with pytest.raises(UsageError, match=r"each of the synthetic phantom is one that the gates look at.*#calibration"):
        phantom.without(phantom)
    assert phantom.without(replace(phantom, samples=())) is phantom


def test_a_network_whose_output_is_not_finite_is_refused_and_nothing_is_published(source: Path, tmp_path: Path) -> None:
    _edit_weights(source, lambda name, value: value * np.float32("inf") if name == "head.bias" else value)
    with pytest.raises(RefusedError, match=r"not finite.*#gate-refused"):
        pipeline.export_bundle(source, tmp_path / "out", phantom_slices())
    assert list((tmp_path / "out").iterdir()) == []


def test_a_graph_that_decides_otherwise_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter is broken on purpose: it writes another network than the reference."""
    export_graph = making.export_graph

    def export_other(card: Card, graph: Graph, network: torch.nn.Module, path: Path) -> None:
        if graph == "network":
            network = torch.nn.Sequential(network, torch.nn.Threshold(1e9, 1e3))
        export_graph(card, graph, network, path)

    monkeypatch.setattr(making, "export_graph", export_other)
    with pytest.raises(
        RefusedError, match=r"network\.fp32\.onnx did not pass parity: .* of the labels differ.*#gate-refused"
    ):
        pipeline.export_bundle(source, tmp_path / "out", phantom_slices())
    assert list((tmp_path / "out").iterdir()) == []


def test_an_optional_fp16_that_is_refused_is_left_out_and_a_wanted_one_ends_the_export(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = making.convert_to_half

    def convert_wrongly(single: Path, half: Path, *, kept: Collection[str] = ()) -> None:
        convert(single, half, kept=kept)
        model = onnx.load_model(half)
        for tensor in model.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT16 and len(tensor.dims) == 4:
                tensor.raw_data = bytes(len(tensor.raw_data))
        onnx.save_model(model, half)

    monkeypatch.setattr(making, "convert_to_half", convert_wrongly)
    bundle = pipeline.export_bundle(source, tmp_path / "out", phantom_slices(), Wanted(half=True, optional=True))
    assert bundle.manifest.graph("network", "fp16") is None
    assert bundle.manifest.graph("network", "fp32") is not None
    with pytest.raises(RefusedError, match=r"network\.fp16\.onnx did not pass parity"):
        pipeline.export_bundle(source, tmp_path / "again", phantom_slices(), Wanted(half=True))
    assert list((tmp_path / "again").iterdir()) == []


def test_a_bundle_is_replaced_whole(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = pipeline.export_bundle(source, out, phantom_slices(), Wanted(half=True))
    second = pipeline.export_bundle(source, out, phantom_slices())
    assert first.manifest.graph("network", "fp16") is not None
    assert second.manifest.graph("network", "fp16") is None
    assert not (second.path / "network.fp16.onnx").exists()
    assert [path.name for path in out.iterdir()] == [SMALLEST]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_bundle_is_never_replaced(source: Path, tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "out" / SMALLEST
    if kind == "folder":
        mine /= "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("a year of work")
    with pytest.raises(UsageError, match=r"out/lung_segmentation is no bundle, .* would replace it: .*another --out"):
        pipeline.export_bundle(source, tmp_path / "out", phantom_slices())
    assert mine.read_text() == "a year of work"


def test_an_empty_folder_becomes_the_bundle(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / SMALLEST).mkdir(parents=True)
    assert pipeline.export_bundle(source, tmp_path / "out", phantom_slices()).path == tmp_path / "out" / SMALLEST


def test_weights_that_do_not_fit_the_card_are_named(source: Path, tmp_path: Path) -> None:
    card = json.loads((source / CARD).read_text())
    card["network"]["parameters"]["features"] = 8
    (source / CARD).write_text(json.dumps(card))
    with pytest.raises(UsageError, match=r"weights.safetensors does not fit the card's unet"):
        pipeline.export_bundle(source, tmp_path / "out", phantom_slices())


def test_a_truncated_weights_file_is_one_line(source: Path, tmp_path: Path) -> None:
    content = (source / WEIGHTS).read_bytes()
    (source / WEIGHTS).write_bytes(content[: len(content) // 2])
    with pytest.raises(UsageError, match="is not a safetensors file"):
        pipeline.export_bundle(source, tmp_path / "out", phantom_slices())


def test_an_export_on_first_use_takes_own_pictures_without_a_window_for_none(source: Path, tmp_path: Path) -> None:
    """Nobody can be asked what their greys mean; where an export was asked for, the window is."""
    (tmp_path / "data" / "images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "data" / "images" / "a.png"), np.zeros((64, 64), np.uint8))
    made = export_all([source], tmp_path / "out", optional=True, data=tmp_path / "data")
    evidence = made[SMALLEST].require("network").evidence
    assert evidence is not None
    assert evidence.images == "synthetic phantom"
    with pytest.raises(UsageError, match="pass the window"):
        export_all([source], tmp_path / "out", data=tmp_path / "data")


def test_shipped_weights_are_exported_once_and_a_bundle_of_others_is_known(bundles: dict[TaskName, Bundle]) -> None:
    again = provide_bundles(None)
    assert {name: bundle.sha256 for name, bundle in again.items()} == {n: b.sha256 for n, b in bundles.items()}
    assert holds(bundles["lung_segmentation"], PRETRAINED / "lung_segmentation")
    assert not holds(bundles["lung_segmentation"], PRETRAINED / "binary_segmentation")


def _edit_weights(source: Path, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> None:
    tensors = load_file(source / WEIGHTS)
    save_file({name: change(name, value).astype(value.dtype) for name, value in tensors.items()}, source / WEIGHTS)
