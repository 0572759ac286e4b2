"""The trial's graph computes what numpy says, in every precision, and another one does not pass for it."""

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from coronanet.engines import trial_graph
from coronanet.engines.bundle import Precision
from coronanet.engines.onnxruntime_engine import OnnxRuntimeEngine
from coronanet.engines.trial_graph import INPUT, OUTPUT, TOLERANCES, expected_logits, is_right, trial_model
from coronanet.export import to_onnx

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def answer(model: bytes, folder: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    (folder / "trial.onnx").write_bytes(model)
    with OnnxRuntimeEngine(folder / "trial.onnx", (INPUT,), (OUTPUT,), 1) as engine:
        return engine.infer({INPUT.name: trial_graph.trial_pixels()})[OUTPUT.name]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_gives_the_convolution(precision: Precision, tmp_path: Path) -> None:
    assert is_right(answer(trial_model(precision), tmp_path), precision)


def test_each_precision_is_really_computed_in(tmp_path: Path) -> None:
    """fp16 and int8 must lose something, or they were not what they are called."""
    lost = {
        precision: float(np.abs(answer(trial_model(precision), tmp_path) - expected_logits()).max())
        for precision in PRECISIONS
    }
    assert lost["fp32"] < 1e-5 < lost["fp16"] < lost["int8"]


def test_the_int8_graph_has_quantize_and_dequantize_around_the_convolution() -> None:
    nodes = [node.op_type for node in onnx.load_from_string(trial_model("int8")).graph.node]
    assert nodes == ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"]


def test_the_trial_is_of_the_opset_and_the_ir_of_the_bundles() -> None:
    assert (trial_graph.OPSET, trial_graph.IR_VERSION) == (to_onnx.OPSET, to_onnx.IR_VERSION)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_another_convolution_does_not_pass(
    precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = trial_graph.trial_weights()
    with monkeypatch.context() as patch:
        patch.setattr(trial_graph, "trial_weights", lambda: weights[:, :, ::-1])
        model = trial_model(precision)
    assert not is_right(answer(model, tmp_path), precision)


def test_nothing_and_not_a_number_do_not_pass() -> None:
    for wrong in (np.zeros(OUTPUT.shape), np.full(OUTPUT.shape, np.nan), np.zeros((1, 1))):
        assert not is_right(wrong.astype(np.float32), "int8")


def test_the_tolerances_are_far_below_the_answer_itself() -> None:
    assert max(TOLERANCES.values()) < np.abs(expected_logits()).max() / 20
