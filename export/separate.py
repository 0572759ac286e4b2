"""A convolution over concatenated channels becomes the sum of one convolution for each part.

``conv(concat(a, b)) = conv_a(a) + conv_b(b)``: the same network, up to the order of a sum. Before quantization it
matters: the parts of a U-Net's skip connection have ranges that differ tenfold, and behind the concatenation they would
share one scale, which costs the part with the small range most of its levels (decision 18).
"""

from collections import Counter

import numpy as np
import onnx
from onnx import helper, numpy_helper

CHANNELS = 1


def separate_concatenations(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` in which no convolution reads a concatenation of channels that nothing else reads.

    Only concatenations of tensors with known numbers of channels are taken apart, and only ungrouped convolutions.
    """
    inferred = onnx.shape_inference.infer_shapes(model)
    graph = inferred.graph
    channels = {
        value.name: value.type.tensor_type.shape.dim[CHANNELS].dim_value
        for value in (*graph.input, *graph.value_info)
        if len(value.type.tensor_type.shape.dim) > CHANNELS
    }
    weights = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)

    nodes: list[onnx.NodeProto] = []
    taken_apart: set[str] = set()
    for node in graph.node:
        source = made_by.get(node.input[0]) if node.op_type == "Conv" and node.input[1] in weights else None
        widths = [channels.get(name, 0) for name in source.input] if source is not None else []
        if source is None or not _is_separable(node, source) or readers[source.output[0]] != 1 or not all(widths):
            nodes.append(node)
            continue
        taken_apart.add(source.output[0])
        parts: list[str] = []
        blocks = np.split(numpy_helper.to_array(weights[node.input[1]]), np.cumsum(widths)[:-1], axis=CHANNELS)
        for number, (part, block) in enumerate(zip(source.input, blocks, strict=True)):
            weight, output = f"{node.input[1]}.{number}", f"{node.output[0]}.{number}"
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(block), weight))
            convolution = onnx.NodeProto()
            convolution.CopyFrom(node)
            convolution.name = f"{node.name}.{number}"
            # The bias is added once.
            convolution.input[:] = [part, weight, *(node.input[2:] if number == 0 else ())]
            convolution.output[:] = [output]
            nodes.append(convolution)
            parts.append(output)
        nodes += _sum(parts, node)
    kept = [node for node in nodes if not taken_apart.intersection(node.output)]
    return with_nodes(inferred, kept)


def _is_separable(node: onnx.NodeProto, source: onnx.NodeProto) -> bool:
    if source.op_type != "Concat":
        return False
    axis = next(attribute.i for attribute in source.attribute if attribute.name == "axis")
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return axis == CHANNELS and groups == 1


def _sum(parts: list[str], node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Additions of two at a time, whose last has the output of ``node``."""
    nodes: list[onnx.NodeProto] = []
    total = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        output = node.output[0] if number == len(parts) - 1 else f"{node.output[0]}.sum{number}"
        nodes.append(helper.make_node("Add", [total, part], [output], name=f"{node.name}.sum{number}"))
        total = output
    return nodes


def with_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """A copy of ``model`` with other nodes, and of its weights only those that they read."""
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        model.graph.name,
        model.graph.input,
        model.graph.output,
        [tensor for tensor in model.graph.initializer if tensor.name in used],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
