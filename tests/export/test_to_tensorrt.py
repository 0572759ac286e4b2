"""Real plans, built by TensorRT-RTX, which needs no GPU for it: what comes out, and what stops a build."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from coronanet.engines.bundle import Bundle, FileRecord, Gate, PlanTarget, Precision, TensorRecord, hash_file
from coronanet.engines.plans import built_here
from coronanet.export.calibrate import OPERATORS
from coronanet.export.census import take_census
from coronanet.export.quantize import quantized_nodes
from coronanet.export.to_tensorrt import build_plan, carry_plans
from coronanet.model.errors import RefusedError, UsageError
from coronanet.model.tasks import TASK_NAMES, TaskName
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from .conftest import TENSORRT_TAKES, quantise

RecordOf = Callable[[Path, Precision], FileRecord]
LAST = "node_conv2d_22"


def build(path: Path, precision: Precision, record_of: RecordOf, target: PlanTarget) -> FileRecord:
    return build_plan(path.parent, record_of(path, precision), target)


def gate_of(record: FileRecord) -> Gate:
    (gate,) = record.gates
    return gate


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_plan_is_built_and_computes_in_what_was_asked_for(
    work: Path, precision: Precision, record_of: RecordOf, target: PlanTarget
) -> None:
    source = work / f"network.{precision}.onnx"
    phases: list[str] = []
    plan = build_plan(work, record_of(source, precision), target, progress=phases.append)
    assert plan.path == f"plans/sm86-rtx1.7-{precision}.plan"
    assert plan.kind == "plan"
    assert hash_file(work / plan.path) == plan.sha256
    assert (work / plan.path).stat().st_size == plan.bytes
    assert plan.target is not None
    assert plan.target.onnx_sha256 == hash_file(source)
    assert plan.sha256 in built_here
    assert plan.verdicts == {"parity": "not_run", "precision": "passed"}
    assert not plan.is_proved
    assert gate_of(plan).figures[f"{precision}_layers"] == gate_of(plan).figures["compute_layers"] == 28
    assert any("/" in phase for phase in phases)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_network_that_ships_becomes_a_plan_in_its_precision(
    bundles: dict[TaskName, Bundle], task: TaskName, precision: Precision, target: PlanTarget, tmp_path: Path
) -> None:
    record = bundles[task].require("network", precision)
    shutil.copyfile(bundles[task].file(record), tmp_path / record.path)
    becomes_a_plan(tmp_path, record, target)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_every_network_that_ships_becomes_an_int8_plan(
    bundles: dict[TaskName, Bundle], task: TaskName, int8_of: Callable[[TaskName], Path], target: PlanTarget
) -> None:
    path = int8_of(task)
    model = onnx.load_model(path)
    kept = {node.name for node in model.graph.node if node.op_type in OPERATORS} - quantized_nodes(model)
    assert len(kept) == 1, "only what reads the picture"
    fields = {
        "path": path.name,
        "precision": "int8",
        "sha256": hash_file(path),
        "bytes": path.stat().st_size,
        "gates": (take_census(path, "int8", kept=tuple(kept)),),
    }
    becomes_a_plan(path.parent, bundles[task].require("network").model_copy(update=fields), target)


def becomes_a_plan(folder: Path, record: FileRecord, target: PlanTarget) -> None:
    plan = build_plan(folder, record, target)
    assert gate_of(plan).verdict == "passed", gate_of(plan).nodes
    assert gate_of(plan).figures["compute_layers"] >= 20
    assert plan.bytes > 0.4 * record.bytes


@pytest.mark.parametrize(("asked", "made"), [("fp16", "fp32"), ("int8", "fp32"), ("fp32", "fp16"), ("fp32", "int8")])
def test_a_network_in_another_precision_than_asked_for_is_refused_by_node(
    work: Path, asked: Precision, made: Precision, record_of: RecordOf, target: PlanTarget, tmp_path: Path
) -> None:
    path = tmp_path / "network.onnx"
    shutil.copyfile(work / f"network.{made}.onnx", path)
    gate = gate_of(build(path, asked, record_of, target))
    assert gate.verdict == "refused"
    assert gate.reason == f"as parsed: 28 of 28 do not compute in {asked}"
    assert len(gate.nodes) == 28
    assert LAST in gate.nodes


def test_one_convolution_that_silently_stayed_float_is_refused_unless_a_gate_kept_it(
    work: Path, record_of: RecordOf, target: PlanTarget, tmp_path: Path
) -> None:
    half = onnx.load_model(work / "network.fp32.onnx")
    kept_half = convert_float_to_float16(half, keep_io_types=True, node_block_list=[LAST])
    onnx.save_model(kept_half, tmp_path / "half.onnx")
    quantise(work / "network.fp32.onnx", tmp_path / "int8.onnx", TENSORRT_TAKES, leave_out=(LAST,))
    named: tuple[tuple[str, Precision], ...] = (("half.onnx", "fp16"), ("int8.onnx", "int8"))
    for name, precision in named:
        record = record_of(tmp_path / name, precision)
        gate = gate_of(build_plan(tmp_path, record, target))
        assert (gate.verdict, gate.nodes) == ("refused", (LAST,))
        excuse = Gate(gate="range", verdict="passed", reason="overflows", nodes=(LAST,))
        gate = gate_of(build_plan(tmp_path, record.model_copy(update={"gates": (excuse,)}), target))
        assert (gate.verdict, gate.nodes, gate.figures["kept_layers"]) == ("passed", (LAST,), 1)


def test_a_quantised_bias_is_named_with_the_setting_that_mends_it(
    work: Path, record_of: RecordOf, target: PlanTarget, tmp_path: Path
) -> None:
    path = tmp_path / "network.onnx"
    quantise(work / "network.fp32.onnx", path, {**TENSORRT_TAKES, "QuantizeBias": True})
    with pytest.raises(
        RefusedError, match=r"node \S*bias\S* \(DequantizeLinear\) has an INT32 bias, .*QuantizeBias.*#int32-bias"
    ):
        build(path, "int8", record_of, target)


def test_an_unsupported_operator_is_named(record_of: RecordOf, target: PlanTarget, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["pixels"], ["positive"], name="a_fine_node"),
        helper.make_node("Det", ["positive"], ["logits"], name="determinant"),
        helper.make_node("Wish", ["positive"], ["wished"], name="made_up", domain="com.example"),
    ]
    path = _write_onnx(tmp_path / "network.onnx", nodes)
    with pytest.raises(RefusedError) as error:
        build(path, "fp32", record_of, target)
    message = str(error.value)
    assert "node determinant (Det) is an unsupported operator" in message
    assert "node made_up (Wish) is an unsupported operator" in message
    assert "a_fine_node" not in message
    assert message.endswith("(docs/errors.md#unsupported-operator)")


def test_an_axis_of_any_size_without_a_profile_is_named(work: Path, record_of: RecordOf, target: PlanTarget) -> None:
    pixels = TensorRecord(name="pixels", dtype="float32", shape=(-1, 1, -1, 64))
    record = record_of(work / "network.fp32.onnx", "fp32").model_copy(update={"inputs": (pixels,)})
    with pytest.raises(UsageError, match=r"pixels float32 \[\?, 1, \?, 64\] has an axis of any size .*#no-profile"):
        build_plan(work, record, target)


def test_an_input_that_the_manifest_does_not_know_has_no_profile(
    work: Path, record_of: RecordOf, target: PlanTarget
) -> None:
    record = record_of(work / "network.fp32.onnx", "fp32").model_copy(update={"inputs": ()})
    with pytest.raises(UsageError, match=r"cannot build .*sm86.* has no optimisation profile.*#no-profile"):
        build_plan(work, record, target)


def test_an_opset_that_is_too_old_is_refused_before_anything_is_parsed(
    work: Path, record_of: RecordOf, target: PlanTarget
) -> None:
    record = record_of(work / "network.fp32.onnx", "fp32").model_copy(update={"opset": 6})
    with pytest.raises(UsageError, match=r"is of opset 6, expected 7 or newer.*docs/errors.md#opset"):
        build_plan(work, record, target)


def test_an_int16_input_and_half_a_file_are_one_line_each(
    work: Path, record_of: RecordOf, target: PlanTarget, tmp_path: Path
) -> None:
    cast = [helper.make_node("Cast", ["pixels"], ["logits"], to=TensorProto.FLOAT)]
    integers = _write_onnx(tmp_path / "integers.onnx", cast, TensorProto.INT16)
    with pytest.raises(UsageError, match=r"cannot read integers\.onnx: .*INT16.*#unsupported-operator"):
        build(integers, "fp32", record_of, target)
    cut = tmp_path / "cut.onnx"
    cut.write_bytes((work / "network.fp32.onnx").read_bytes()[:1000])
    with pytest.raises(UsageError, match=r"cannot read cut\.onnx: the file is damaged.*#corrupted-file"):
        build(cut, "fp32", record_of, target)


def test_a_workspace_that_is_too_small_says_so_and_leaves_no_file(
    work: Path, record_of: RecordOf, target: PlanTarget, tmp_path: Path
) -> None:
    shutil.copyfile(work / "network.fp32.onnx", tmp_path / "network.fp32.onnx")
    with pytest.raises(
        UsageError, match=r"cannot build sm86\S+ from network.fp32.onnx: the workspace is too small.*#out-of-memory"
    ):
        build_plan(tmp_path, record_of(tmp_path / "network.fp32.onnx", "fp32"), target, workspace_bytes=1000)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["network.fp32.onnx"]


def test_running_out_of_memory_says_so(work: Path, record_of: RecordOf, target: PlanTarget, tmp_path: Path) -> None:
    """In a process that may take 1 MB more than it has when the build begins: with more, TensorRT may hang."""
    shutil.copyfile(work / "network.fp32.onnx", tmp_path / "network.fp32.onnx")
    record = record_of(tmp_path / "network.fp32.onnx", "fp32")
    program = f"""
import resource
from pathlib import Path
from coronanet.engines.bundle import FileRecord, PlanTarget
from coronanet.export.quantize import quantized_nodes
from coronanet.export.to_tensorrt import build_plan
record = FileRecord.model_validate_json({record.model_dump_json()!r})
target = PlanTarget.model_validate_json({target.model_dump_json()!r})
def limit(_):
    taken = next(line for line in open("/proc/self/status") if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, ((int(taken.split()[1]) << 10) + (1 << 20), -1))
build_plan(Path({str(tmp_path)!r}), record, target, progress=limit)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert re.search(r"cannot build sm86\S+ from network\.fp32\.onnx: out of memory.*#out-of-memory", done.stderr)


def test_an_exception_in_the_progress_ends_the_build(
    work: Path, record_of: RecordOf, target: PlanTarget, tmp_path: Path
) -> None:
    shutil.copyfile(work / "network.fp32.onnx", tmp_path / "network.fp32.onnx")
    told: list[str] = []

    def interrupt(what: str) -> None:
        told.append(what)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(tmp_path, record_of(tmp_path / "network.fp32.onnx", "fp32"), target, progress=interrupt)
    assert len(told) == 1
    assert not (tmp_path / "plans").exists()


def test_a_set_keeps_the_plans_of_the_same_file_and_drops_those_of_another(
    tiny_bundle: Bundle, record_of: RecordOf, target: PlanTarget, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(tiny_bundle.path, old)
    network = tiny_bundle.require("network")
    plan = build_plan(old, network, target)
    bundle = Bundle(old, tiny_bundle.manifest.model_copy(update={"files": (network, plan)}), tiny_bundle.card, "")
    new = Bundle(tmp_path / "new", bundle.manifest, bundle.card, "")
    (carried,) = carry_plans(bundle, new, (network,), margin=0.005)
    assert carried == plan
    assert hash_file(new.file(plan)) == plan.sha256
    assert carry_plans(bundle, new, (network,), margin=0.005) == ()
    other = Bundle(tmp_path / "other", bundle.manifest, bundle.card, "")
    changed = (network.model_copy(update={"sha256": "0" * 64}),)
    assert carry_plans(bundle, other, changed, margin=0.005) == ()
    assert network.batch is not None
    larger = (network.model_copy(update={"batch": network.batch.model_copy(update={"max": 16})}),)
    assert carry_plans(bundle, other, larger, margin=0.005) == ()


@pytest.mark.parametrize(("changed", "verdict"), [("nothing", "passed"), ("card", "not_run"), ("margin", "not_run")])
def test_a_carried_plan_keeps_its_verdicts_only_by_the_card_and_the_margin_that_it_was_judged_by(
    tiny_bundle: Bundle, changed: str, verdict: str, tmp_path: Path
) -> None:
    network = tiny_bundle.require("network")
    (tmp_path / "a.plan").write_bytes(b"plan")
    target = PlanTarget(
        runtime="tensorrt", version="11.1.0", compute_capability="8.6", gpu="A10", onnx_sha256=network.sha256
    )
    judged = Gate(gate="non_inferiority", verdict="passed", reason="", figures={"margin": 0.005})
    precision = Gate(gate="precision", verdict="passed", reason="")
    fields = {"path": "a.plan", "kind": "plan", "target": target, "gates": (precision, judged)}
    manifest = tiny_bundle.manifest.model_copy(update={"files": (network.model_copy(update=fields),)})
    previous = Bundle(tmp_path, manifest, tiny_bundle.card, "")
    card = tiny_bundle.card.model_copy(update={"tolerance": 0.5} if changed == "card" else {})
    bundle = Bundle(tmp_path / "new", tiny_bundle.manifest, card, "")
    (plan,) = carry_plans(previous, bundle, (network,), margin=0.05 if changed == "margin" else 0.005)
    assert plan.verdicts["parity"] == verdict
    assert plan.verdicts["precision"] == "passed"
    assert ("non_inferiority" in plan.verdicts) is (changed == "nothing")
    assert plan.evidence is not None
    assert ("judged by" in plan.evidence.reason) is (changed != "nothing")


def _write_onnx(path: Path, nodes: list[onnx.NodeProto], dtype: int = TensorProto.FLOAT) -> Path:
    pixels = helper.make_tensor_value_info("pixels", dtype, ["batch", 1, 64, 64])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    onnx.save_model(helper.make_model(helper.make_graph(nodes, "g", [pixels], [logits]), opset_imports=opsets), path)
    return path
