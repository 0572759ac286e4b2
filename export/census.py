"""The actual precision: a census of an ONNX network proves that what was asked for was built."""

from collections.abc import Collection
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from ..engines.bundle import Gate, Precision
from .calibrate import OPERATORS

WEIGHT_TYPES: dict[Precision, int] = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16}


def take_census(network: Path, precision: Precision, *, kept: Collection[str] = ()) -> Gate:
    """Whether every convolution and product of a network computes in the precision that its name claims.

    float32 and float16: the type of the weights. int8: symmetric int8 quantize / dequantize pairs before both the
    activation and the weights, and no int32 bias, which TensorRT refuses.

    Args:
        kept: names of the nodes that may stay in float32.
    """
    graph = onnx.load_model(network).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    found = [node for node in graph.node if node.op_type in OPERATORS]
    other = [
        node.name
        for node in found
        if node.name not in kept
        and not (
            _is_quantized(node, made_by, weights) if precision == "int8" else _is_of(node, precision, made_by, weights)
        )
    ]
    figures = {
        "operators": float(len(found)),
        "kept": float(sum(node.name in kept for node in found)),
        "in_precision": float(len(found) - len(other) - sum(node.name in kept for node in found)),
    }
    if not other and figures["in_precision"]:
        return Gate(gate="precision", verdict="passed", reason="", figures=figures, nodes=tuple(kept))
    named = ", ".join(other[:5]) + (", …" if len(other) > 5 else "") or "all of them are kept in float32"
    reason = f"{len(other) or len(found)} of {len(found)} convolutions and products are not {precision}: {named}"
    return Gate(gate="precision", verdict="refused", reason=reason, figures=figures, nodes=tuple(other))


def _is_of(
    node: onnx.NodeProto,
    precision: Precision,
    made_by: dict[str, onnx.NodeProto],
    weights: dict[str, onnx.TensorProto],
) -> bool:
    makers = [made_by[name].op_type for name in node.input if name in made_by]
    given = [weights[name].data_type for name in node.input[1:] if name in weights]
    # A product of two activations has no weights to be of a type; a convolution's are constants.
    known = bool(given) or node.op_type in ("MatMul", "Gemm")
    return known and "DequantizeLinear" not in makers and all(kind == WEIGHT_TYPES[precision] for kind in given)


def _is_quantized(
    node: onnx.NodeProto, made_by: dict[str, onnx.NodeProto], weights: dict[str, onnx.TensorProto]
) -> bool:
    pairs = [made_by.get(name) for name in node.input[:2]]
    if not all(pair is not None and _is_symmetric_int8(pair, weights) for pair in pairs):
        return False
    return all(weights[name].data_type == TensorProto.FLOAT for name in node.input[2:] if name in weights)


def _is_symmetric_int8(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    zero = weights.get(node.input[2]) if node.op_type == "DequantizeLinear" and len(node.input) == 3 else None
    return zero is not None and zero.data_type == TensorProto.INT8 and not numpy_helper.to_array(zero).any()
