"""INT8: what is quantized, what TensorRT needs of it, and that calibration is done once."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from coronanet.engines.bundle import Bundle, CalibrationMethod
from coronanet.engines.places import HOME_VARIABLE
from coronanet.export.calibrate import METHODS, cache_path, calibrate
from coronanet.export.census import take_census
from coronanet.export.quantize import quantizable, quantize
from coronanet.export.switchboard import Switchboard
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

PIXELS = [np.random.default_rng(seed).normal(0, 1, (1, 1, 64, 64)).astype(np.float32) for seed in range(3)]


@pytest.fixture
def network(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return tiny_bundle.file(tiny_bundle.require("network"))


def ignore(done: int) -> None:
    pass


def write(network: Path, target: Path, kept: Sequence[str] = (), method: CalibrationMethod = "min-max") -> Path:
    quantize(network, target, calibrate(network, PIXELS, method, progress=ignore), kept=kept)
    return target


def run(path: Path) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pixels": PIXELS[0]})[0])


@pytest.mark.parametrize("method", ["min-max", "entropy", "percentile"])
def test_every_method_gives_a_network_near_the_original(
    network: Path, tmp_path: Path, method: CalibrationMethod, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library's search for a range takes half a minute with four times the bins.
    kind, options = METHODS["entropy"]
    monkeypatch.setitem(METHODS, "entropy", (kind, {**options, "num_bins": options["num_bins"] // 4}))
    wanted, given = run(network), run(write(network, tmp_path / "int8.onnx", method=method))
    assert np.corrcoef(wanted.ravel(), given.ravel())[0, 1] > 0.95
    assert not np.array_equal(wanted, given)


def test_what_tensorrt_needs_holds(network: Path, tmp_path: Path) -> None:
    path = write(network, tmp_path / "int8.onnx")
    graph = onnx.load_model(path).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero = weights[node.input[2]]
            assert zero.data_type == TensorProto.INT8
            assert not numpy_helper.to_array(zero).any()
    assert not any(tensor.data_type == TensorProto.INT32 for tensor in graph.initializer)
    assert path.stat().st_size < 0.5 * network.stat().st_size


def test_what_reads_the_picture_itself_is_not_quantized(network: Path) -> None:
    model = onnx.load_model(network)
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    assert "pixels" in first.input
    assert first.name not in quantizable(model)


def test_the_census_names_what_is_not_int8(network: Path, tmp_path: Path) -> None:
    model = onnx.load_model(network)
    able = quantizable(model)
    picture = [node.name for node in model.graph.node if node.op_type == "Conv" and node.name not in able]
    path = write(network, tmp_path / "int8.onnx", kept=[able[3]])
    assert take_census(path, "int8", kept=[*picture, able[3]]).verdict == "passed"
    gate = take_census(path, "int8", kept=picture)
    assert gate.verdict == "refused"
    assert gate.nodes == (able[3],)
    assert f"are not int8: {able[3]}" in gate.reason


def test_a_float32_file_under_the_name_of_another_precision_is_refused(network: Path) -> None:
    assert take_census(network, "fp32").verdict == "passed"
    assert take_census(network, "fp16").verdict == "refused"
    assert take_census(network, "int8").verdict == "refused"


def test_calibration_is_done_once_for_the_same_network_slices_and_method(
    network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    first = calibrate(network, PIXELS, "min-max", progress=told.append)
    assert told == [1, 2, 3]
    again = calibrate(network, PIXELS, "min-max", progress=told.append)
    assert told == [1, 2, 3]
    assert first.keys() == again.keys()
    paths = {
        cache_path(network, PIXELS, "min-max"),
        cache_path(network, PIXELS[:2], "min-max"),
        cache_path(network, PIXELS, "percentile"),
    }
    assert len(paths) == 3


@pytest.mark.parametrize("content", ["", '{"data": {', "{}", "[]"])
def test_a_damaged_calibration_is_done_again(network: Path, content: str) -> None:
    first = calibrate(network, PIXELS, "min-max", progress=ignore)
    cache_path(network, PIXELS, "min-max").write_text(content, encoding="utf-8")
    told: list[int] = []
    assert calibrate(network, PIXELS, "min-max", progress=told.append).keys() == first.keys()
    assert told == [1, 2, 3]


def test_a_calibration_that_fails_leaves_nothing(network: Path, tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(network, PIXELS, "min-max", progress=stop)
    assert not list((tmp_path / "home" / "calibrations").iterdir())


def test_the_switchboard_computes_what_the_files_compute(network: Path, tmp_path: Path, tiny_bundle: Bundle) -> None:
    record = tiny_bundle.require("network")
    model = onnx.load_model(network)
    able = quantizable(model)
    board = Switchboard(
        model,
        onnx.load_model(write(network, tmp_path / "all.onnx")),
        tuple(tensor.spec for tensor in record.inputs),
        tuple(tensor.spec for tensor in record.outputs),
        8,
    )
    wanted = run(network)
    for kept in ((), able[:4], able):
        board.kept = kept
        given = board.infer({"pixels": PIXELS[0]})["logits"]
        file = run(write(network, tmp_path / "some.onnx", kept=kept))
        np.testing.assert_allclose(given, file, atol=0.02 * float(np.ptp(wanted)))
        assert np.array_equal(given, wanted) == (kept == able) or np.allclose(given, wanted, atol=1e-5)
