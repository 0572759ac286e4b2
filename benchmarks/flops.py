"""Operations and bytes of every layer of an ONNX graph, counted from the graph alone.

A multiplication and its addition are two operations. A layer is one operator that computes or moves data, with what an
engine does in passing on its result: activations, sums, normalisation, quantisation. Its bytes are its inputs, weights
and result, each once, in the type in which the graph stores them: the least that has to be moved where nothing stays in
a cache.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, shape_inference

from ..engines.bundle import Precision
from ..model.errors import UsageError

#: Done in passing on the result of the layer before, one operation an element.
POINTWISE = frozenset(("Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Exp", "Neg", "Min", "Max", "Erf")) | frozenset(
    ("Relu", "LeakyRelu", "PRelu", "Elu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "BatchNormalization")
)
#: Change how bytes are named or stored, and compute nothing that counts.
FREE = frozenset(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout", "Cast", "Expand")) | frozenset(
    ("QuantizeLinear", "DequantizeLinear", "Constant", "ConstantOfShape", "Shape", "Gather", "Range")
)
MOVES = frozenset(("Concat", "Slice", "Split", "Transpose", "Pad"))
REDUCTIONS = frozenset(("GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum", "ReduceMax"))
ARITHMETIC: dict[int, Precision] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
}


@dataclass(frozen=True)
class Layer:
    """One layer: ``precision`` is what it computes in; ``read`` and ``written`` are bytes."""

    name: str
    operator: str
    precision: Precision
    flops: int
    read: int
    written: int

    @property
    def bytes(self) -> int:
        return self.read + self.written


def count_layers(path: Path, batch: int, *, arithmetic: Precision | None = None) -> tuple[Layer, ...]:
    """The layers of an ONNX file for a batch.

    Args:
        arithmetic: what the engine computes and stores in where that is not the file's own: bf16 or fp16 for fp32.

    Raises:
        UsageError: a shape cannot be inferred.
    """
    model = onnx.load(path)
    return _Counter(_with_shapes(model, batch, path), path, arithmetic).layers()


def total_flops(layers: Sequence[Layer]) -> int:
    return sum(layer.flops for layer in layers)


def _with_shapes(model: onnx.ModelProto, batch: int, path: Path) -> onnx.ModelProto:
    """The model for one batch size, with the shape of every tensor."""
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights:
            value.type.tensor_type.shape.dim[0].dim_value = batch
    # What the exporter wrote down for a batch of any size would stand against what follows from this one.
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except shape_inference.InferenceError as error:
        raise UsageError(f"{path.name}: shapes cannot be inferred: {error}") from None


class _Counter:
    """Walks a graph in its order, which ONNX has every producer before its consumers."""

    def __init__(self, model: onnx.ModelProto, path: Path, arithmetic: Precision | None) -> None:
        graph = model.graph
        self._path, self._nodes = path, list(graph.node)
        self._arithmetic: Precision | None = arithmetic
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, int] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            self._shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
            self._types[value.name] = kind.elem_type
        self._weights = {tensor.name for tensor in graph.initializer}
        for tensor in graph.initializer:
            self._shapes[tensor.name], self._types[tensor.name] = tuple(tensor.dims), tensor.data_type
        self._producers = {name: node for node in self._nodes for name in node.output}
        self._readers = Counter(name for node in self._nodes for name in node.input)
        self._quantised = {node.input[0] for node in self._nodes if node.op_type == "QuantizeLinear"}
        #: Which layer a tensor is the result of, so that what comes next may be done in passing.
        self._result_of: dict[str, int] = {}
        self._layers: list[Layer] = []

    def layers(self) -> tuple[Layer, ...]:
        for node in self._nodes:
            if node.op_type in FREE:
                if node.input and node.input[0] in self._result_of and self._readers[node.input[0]] == 1:
                    self._result_of[node.output[0]] = self._result_of[node.input[0]]
            elif node.op_type in POINTWISE and (host := self._host(node)) is not None:
                self._add_to(host, node)
            else:
                self._result_of[node.output[0]] = len(self._layers)
                self._layers.append(self._layer(node))
        return tuple(self._layers)

    def _host(self, node: onnx.NodeProto) -> str | None:
        """The operand whose layer can do this in passing: nobody else reads it, and it is as large as the result."""
        for name in node.input:
            if (
                name in self._result_of
                and self._readers[name] == 1
                and self._elements(name) == self._elements(node.output[0])
            ):
                return name
        return None

    def _add_to(self, host: str, node: onnx.NodeProto) -> None:
        index = self._result_of[host]
        layer = self._layers[index]
        others = sum(self._bytes(name) for name in node.input if name and name != host)
        output = node.output[0]
        self._layers[index] = replace(
            layer,
            flops=layer.flops + self._elements(output),
            read=layer.read + others,
            written=self._bytes(output, written=True),
        )
        self._result_of[output] = index

    def _layer(self, node: onnx.NodeProto) -> Layer:
        return Layer(
            name=node.name or node.output[0],
            operator=node.op_type,
            precision=self._precision(node),
            flops=self._flops(node),
            read=sum(self._bytes(name) for name in dict.fromkeys(node.input) if name),
            written=sum(self._bytes(name, written=True) for name in node.output if name),
        )

    def _flops(self, node: onnx.NodeProto) -> int:
        """A product a weight and result, a comparison or sum an element that a pool reads, else one a result."""
        given, result = self._elements(node.input[0]), self._elements(node.output[0])
        per_result = {
            "Conv": lambda: 2 * math.prod(self._shape(node.input[1])[1:]),
            "MatMul": lambda: 2 * self._shape(node.input[0])[-1],
            "Gemm": lambda: 2 * given // self._shape(node.output[0])[0],
            "MaxPool": lambda: math.prod(_attribute(node, "kernel_shape")),
            "AveragePool": lambda: math.prod(_attribute(node, "kernel_shape")),
        }
        if node.op_type in per_result:
            return result * per_result[node.op_type]()
        if node.op_type == "ConvTranspose":
            return 2 * given * math.prod(self._shape(node.input[1])[1:])
        if node.op_type in MOVES:
            return 0
        return given if node.op_type in REDUCTIONS else result

    def _precision(self, node: onnx.NodeProto) -> Precision:
        kind = self._type(self._source(node.input[0]))
        if node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            # Only where both factors are in eight bits is the product computed so.
            weight = self._type(self._source(node.input[1]))
            kind = kind if kind == weight else self._type(node.input[0])
        found: Precision = ARITHMETIC.get(kind, "fp32")
        return self._arithmetic if self._arithmetic and found == "fp32" else found

    def _bytes(self, name: str, *, written: bool = False) -> int:
        """What a tensor takes in memory: eight bits where it is only a dequantised or to be quantised one."""
        if written and name in self._quantised and self._readers[name] == 1:
            return self._elements(name)
        width = helper.tensor_dtype_to_np_dtype(self._type(self._source(name))).itemsize
        if self._arithmetic is not None and width == 4 and self._type(name) == TensorProto.FLOAT:
            width = 2
        return self._elements(name) * width

    def _source(self, name: str) -> str:
        """What is stored where a tensor is only another's dequantised form."""
        node = self._producers.get(name)
        return node.input[0] if node is not None and node.op_type == "DequantizeLinear" else name

    def _elements(self, name: str) -> int:
        return math.prod(self._shape(name))

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self._shapes.get(name)
        if shape is None or 0 in shape:
            raise UsageError(f"{self._path.name}: the shape of {name} cannot be inferred")
        return shape

    def _type(self, name: str) -> int:
        return self._types.get(name, TensorProto.FLOAT)


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    return next(helper.get_attribute_value(one) for one in node.attribute if one.name == name)
