"""What float16 cannot hold is named before it is tried, and kept out of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from coronanet.engines.bundle import Bundle
from coronanet.engines.places import HOME_VARIABLE
from coronanet.export.calibrate import OPERATORS
from coronanet.export.census import take_census
from coronanet.export.half import convert_to_half
from coronanet.export.options import Wanted
from coronanet.export.pipeline import export_bundle
from coronanet.export.ranges import Extent, judge_ranges, measure_ranges
from coronanet.model.tasks import TaskName
from numpy.typing import NDArray
from onnx import numpy_helper

from .conftest import slices_of, write_scaled

PIXELS = [np.random.default_rng(seed).normal(0, 1, (1, 1, 64, 64)).astype(np.float32) for seed in range(2)]


def convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == "Conv"]


def scaled(path: Path, target: Path, factor: float) -> tuple[str, str]:
    """The same network with what its first convolution puts out ``factor`` times as large, and the second's weights
    smaller by as much; the names of the two."""
    model = onnx.load_model(path)
    big, small = convolutions(model)[:2]
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node, by in ((big, factor), (small, 1 / factor)):
        names = node.input[1:] if node is big else node.input[1:2]
        for name in names:
            tensor = weights[name]
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(by), name))
    onnx.save_model(model, target)
    return big.name, small.name


def run(path: Path) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pixels": PIXELS[0]})[0])


@pytest.fixture
def network(tiny_bundle: Bundle) -> Path:
    return tiny_bundle.file(tiny_bundle.require("network"))


def test_a_network_that_fits_keeps_nothing(network: Path) -> None:
    gate = judge_ranges(network, measure_ranges(network, PIXELS))
    assert gate.verdict == "passed"
    assert gate.nodes == ()
    assert 0 < gate.figures["largest"] < 65504


def test_the_extents_are_those_of_the_tensors_themselves(network: Path) -> None:
    extent = measure_ranges(network, PIXELS[:1])["logits"]
    assert extent.largest == pytest.approx(np.abs(run(network)).max(), rel=1e-5)
    assert extent.root_mean_square == pytest.approx(np.sqrt(np.mean(run(network) ** 2)), rel=1e-4)


def test_the_memory_of_a_tensor_that_was_read_is_used_again(bundles: dict[TaskName, Bundle]) -> None:
    """Held until the end, those of the 3-class network take 1.5 GB."""
    bundle = bundles["multiclass_segmentation"]
    record = bundle.require("network")
    program = f"""
from pathlib import Path
import numpy as np
from coronanet.export.ranges import measure_ranges
def most():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = most()
measure_ranges(Path({str(bundle.file(record))!r}), [np.ones({[1, *record.inputs[0].shape[1:]]}, np.float32)])
print(most() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert int(done.stdout) < 1_000_000


def test_an_extent_is_the_largest_over_all_slices(network: Path) -> None:
    each = [measure_ranges(network, [pixels])["logits"].largest for pixels in (3 * PIXELS[0], PIXELS[1])]
    assert each[0] != each[1]
    for order in ([3 * PIXELS[0], PIXELS[1]], [PIXELS[1], 3 * PIXELS[0]]):
        assert measure_ranges(network, order)["logits"].largest == pytest.approx(max(each))


def test_a_planted_overflow_is_named_and_mended(network: Path, tmp_path: Path) -> None:
    planted, half, mended = tmp_path / "planted.onnx", tmp_path / "half.onnx", tmp_path / "mended.onnx"
    big, small = scaled(network, planted, 1e8)
    wanted = run(planted)
    np.testing.assert_allclose(wanted, run(network), rtol=1e-2, atol=1e-4)
    convert_to_half(planted, half)
    assert not np.isfinite(run(half)).all() or np.abs(run(half) - wanted).max() > 0.1 * np.ptp(wanted)

    gate = judge_ranges(planted, measure_ranges(planted, PIXELS))
    assert f"{big} overflows" in gate.reason
    assert {big, small} <= set(gate.nodes)
    convert_to_half(planted, mended, kept=gate.nodes)
    assert np.abs(run(mended) - wanted).max() < 0.02 * np.ptp(wanted)
    census = take_census(mended, "fp16", kept=gate.nodes)
    assert census.verdict == "passed"
    assert census.figures["kept"] >= 2


def test_an_export_keeps_what_overflows_in_float32_and_proves_what_is_left(
    tiny_source: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = slices_of(tiny_bundle)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    write_scaled(tiny_source, tmp_path, 1e8)
    bundle = export_bundle(tmp_path, tmp_path / "out", slices, Wanted(half=True))
    record = bundle.require("network", "fp16")
    ranges, census = (next(gate for gate in record.gates if gate.gate == name) for name in ("range", "precision"))
    assert ranges.verdict == "passed"
    assert "overflows" in ranges.reason
    model = onnx.load_model(bundle.file(record))
    single = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    in_single = {node.name for node in convolutions(model) if node.input[1] in single}
    assert in_single == {node.name for node in convolutions(model)} & set(ranges.nodes)
    assert census.nodes == ranges.nodes
    assert 2 <= len(in_single) < len(convolutions(model)) / 2
    assert record.is_proved


def test_a_network_of_which_nothing_is_left_for_float16_is_refused(network: Path) -> None:
    model = onnx.load_model(network)
    outputs = [output for node in model.graph.node if node.op_type in OPERATORS for output in node.output]
    gate = judge_ranges(network, {output: Extent(1e6, 1.0) for output in outputs})
    assert gate.verdict == "refused"
    assert gate.reason.startswith("no convolution or product is left for float16: ")
    assert judge_ranges(network, {output: Extent(1e6, 1.0) for output in outputs[1:]}).verdict == "passed"


def test_a_planted_subnormal_is_named_and_mended(network: Path, tmp_path: Path) -> None:
    planted, mended = tmp_path / "planted.onnx", tmp_path / "mended.onnx"
    big, _ = scaled(network, planted, 1e-7)
    gate = judge_ranges(planted, measure_ranges(planted, PIXELS))
    assert f"{big} is subnormal" in gate.reason
    convert_to_half(planted, mended, kept=gate.nodes)
    wanted = run(planted)
    assert np.abs(run(mended) - wanted).max() < 0.02 * np.ptp(wanted)
