"""A convolution over concatenated channels taken apart is the same network."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from coronanet.engines.bundle import Bundle
from coronanet.export.separate import separate_concatenations
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def run(model: onnx.ModelProto, feeds: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


def graph(axis: int, parts: int = 2, group: int = 1, also_read: bool = False) -> onnx.ModelProto:
    """``parts`` inputs of 2 channels, concatenated along ``axis``, and a convolution with a bias."""
    channels = 2 * parts if axis == 1 else 2
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 1, (4, channels // group, 3, 3)).astype(np.float32)
    names = [f"x{number}" for number in range(parts)]
    nodes = [
        helper.make_node("Concat", names, ["joined"], axis=axis, name="join"),
        helper.make_node("Conv", ["joined", "w", "b"], ["y"], pads=[1, 1, 1, 1], group=group, name="conv"),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if also_read:
        outputs.append(helper.make_tensor_value_info("joined", TensorProto.FLOAT, None))
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 2, 8, 8]) for name in names],
        outputs,
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.ones(4, np.float32), "b")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def feeds(parts: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    return {f"x{number}": rng.normal(0, 1, (1, 2, 8, 8)).astype(np.float32) for number in range(parts)}


@pytest.mark.parametrize("parts", [2, 3])
def test_every_part_gets_a_convolution_and_the_sum_is_what_it_was(parts: int) -> None:
    model = graph(axis=1, parts=parts)
    apart = separate_concatenations(model)
    assert sorted(operators(apart)) == ["Add"] * (parts - 1) + ["Conv"] * parts
    np.testing.assert_allclose(run(apart, feeds(parts)), run(model, feeds(parts)), atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [graph(axis=0), graph(axis=1, group=2), graph(axis=1, also_read=True)],
    ids=["slices joined", "grouped convolution", "read by another"],
)
def test_what_cannot_be_taken_apart_stays(model: onnx.ModelProto) -> None:
    assert operators(separate_concatenations(model)) == operators(model)


def test_a_whole_network_says_the_same(tiny_bundle: Bundle) -> None:
    model = onnx.load_model(tiny_bundle.file(tiny_bundle.require("network")))
    apart = separate_concatenations(model)
    assert "Concat" not in operators(apart)
    pixels = {"pixels": np.random.default_rng(2).normal(0, 1, (2, 1, 64, 64)).astype(np.float32)}
    np.testing.assert_allclose(run(apart, pixels), run(model, pixels), atol=1e-4)


def test_no_weight_is_left_that_nobody_reads(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tiny_bundle.file(tiny_bundle.require("network"))
    onnx.save_model(separate_concatenations(onnx.load_model(path)), tmp_path / "apart.onnx")
    assert (tmp_path / "apart.onnx").stat().st_size < 1.1 * path.stat().st_size
