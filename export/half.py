"""FP16 by graph conversion: half-precision weights and arithmetic, float32 at the edges."""

from collections.abc import Collection
from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from .to_onnx import save_onnx


def convert_to_half(source: Path, target: Path, *, kept: Collection[str] = ()) -> None:
    """Write the float16 form of a float32 ONNX network; inputs and outputs stay float32.

    Args:
        kept: names of the nodes that stay in float32.
    """
    single = onnx.load_model(source)
    _forget_weight_types(single.graph)
    model = OnnxModel(convert_float_to_float16(single, keep_io_types=True, node_block_list=list(kept)))
    _join_casts(model.model.graph)
    # The converter appends its casts at the end, where ONNX does not allow them.
    model.topological_sort()
    save_onnx(model.model, target)


def _forget_weight_types(graph: onnx.GraphProto) -> None:
    """Drop the types noted for weights: the converter would note float16 for the scales of a Resize too, and keep them
    float32."""
    weights = {tensor.name for tensor in graph.initializer}
    kept = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _join_casts(graph: onnx.GraphProto) -> None:
    """Between two nodes that stay in float32 the converter goes down to float16 and up again: go straight."""
    down = {node.output[0]: node.input[0] for node in graph.node if _casts_to(node, onnx.TensorProto.FLOAT16)}
    straight = {
        node.output[0]: down[node.input[0]]
        for node in graph.node
        if _casts_to(node, onnx.TensorProto.FLOAT) and node.input[0] in down
    }
    outputs = {output.name for output in graph.output}
    for node in graph.node:
        node.input[:] = [straight.get(name, name) for name in node.input]
    # First those that went up again, then those that went down for nobody else.
    for casts in (straight.keys() - outputs, down.keys()):
        read = {name for node in graph.node for name in node.input} | outputs
        for node in [node for node in graph.node if node.output and node.output[0] in casts]:
            if node.output[0] not in read:
                graph.node.remove(node)


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == kind
