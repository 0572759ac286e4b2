"""The smallest network that says whether a backend computes in a precision: one convolution, and what it must give."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .base import TensorSpec
from .bundle import Precision

SIZE = 16
CHANNELS = 4
#: Those of the graphs of a bundle: `export.to_onnx`, which nothing here imports, has the reasons.
OPSET, IR_VERSION = 18, 8
#: The largest difference from float32 that counts as right; the answer's own values lie within about 3.
TOLERANCES: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 1e-1}
#: One step of an int8 activation: pixels lie in -4..4.
STEP = 4 / 127

INPUT = TensorSpec("pixels", "float32", (1, 1, SIZE, SIZE))
OUTPUT = TensorSpec("logits", "float32", (1, CHANNELS, SIZE, SIZE))


def trial_pixels() -> NDArray[np.float32]:
    """Input float32 ``[1, 1, SIZE, SIZE]`` in -4..4, the same every time."""
    return np.random.default_rng(0).normal(0, 1, INPUT.shape).clip(-4, 4).astype(np.float32)


def trial_weights() -> NDArray[np.float32]:
    """Kernels float32 ``[CHANNELS, 1, 3, 3]``, the same every time."""
    return np.random.default_rng(1).normal(0, 0.3, (CHANNELS, 1, 3, 3)).astype(np.float32)


def expected_logits() -> NDArray[np.float32]:
    """The convolution in numpy, float32 ``[1, CHANNELS, SIZE, SIZE]``."""
    padded = np.pad(trial_pixels()[0, 0], 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    return np.einsum("hwij,cij->chw", windows, trial_weights()[:, 0])[None].astype(np.float32)


def is_right(logits: NDArray[Any], precision: Precision) -> bool:
    """Whether an answer is that of the convolution, within what the precision may lose."""
    return logits.shape == OUTPUT.shape and bool(np.abs(logits - expected_logits()).max() <= TOLERANCES[precision])


def trial_model(precision: Precision) -> bytes:
    """The ONNX file that a backend reads to compute in ``precision``; bf16 is arithmetic only, its file is float32."""
    nodes, initializers, source, weights = _operands(precision)
    convolved = "half" if precision == "fp16" else OUTPUT.name
    nodes.append(helper.make_node("Conv", [source, weights], [convolved], name="conv", pads=[1, 1, 1, 1]))
    if precision == "fp16":
        nodes.append(helper.make_node("Cast", [convolved], [OUTPUT.name], name="to_float", to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "trial",
        [helper.make_tensor_value_info(INPUT.name, TensorProto.FLOAT, INPUT.shape)],
        [helper.make_tensor_value_info(OUTPUT.name, TensorProto.FLOAT, OUTPUT.shape)],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _operands(precision: Precision) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str, str]:
    """The nodes and initializers before the convolution, and the names of its two inputs."""
    weights = trial_weights()
    match precision:
        case "fp32" | "bf16":
            return [], [numpy_helper.from_array(weights, "weights")], INPUT.name, "weights"
        case "fp16":
            cast = helper.make_node("Cast", [INPUT.name], ["cast"], name="to_half", to=TensorProto.FLOAT16)
            return [cast], [numpy_helper.from_array(weights.astype(np.float16), "weights")], "cast", "weights"
        case "int8":
            return _quantized(weights)


def _quantized(weights: NDArray[np.float32]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str, str]:
    """Q/DQ as TensorRT takes it: symmetric, weights a scale for each output channel."""
    scales = np.abs(weights).max(axis=(1, 2, 3)) / 127
    values = np.round(weights / scales[:, None, None, None]).astype(np.int8)
    arrays: dict[str, NDArray[Any]] = {
        "step": np.float32(STEP).reshape(()),
        "zero": np.zeros((), np.int8),
        "values": values,
        "scales": scales,
        "zeros": np.zeros(CHANNELS, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", [INPUT.name, "step", "zero"], ["quantized"], name="quantize"),
        helper.make_node("DequantizeLinear", ["quantized", "step", "zero"], ["source"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["values", "scales", "zeros"], ["weights"], name="dequantize_w", axis=0),
    ]
    return nodes, [numpy_helper.from_array(array, name) for name, array in arrays.items()], "source", "weights"
