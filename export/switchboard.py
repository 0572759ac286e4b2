"""One graph that runs a network with any choice of its nodes in int8: what a search over such choices needs.

The int8 graph with a switch before every quantized input: the tensor itself, or what is left of it after quantizing.
So one session tries a choice in the time of an inference, and it computes what the quantized graph will compute.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..engines.base import EngineBase, Tensors, TensorSpec, check_feeds
from .quantize import quantizable
from .separate import with_nodes

KEEP = "keep"
ERROR_ONLY = 3


class Switchboard(EngineBase):
    """A network on ONNX Runtime whose quantizable nodes are switched between float32 and int8.

    Args:
        single: the float32 network.
        quantized: the same network with every quantizable node in int8.

    Attributes:
        nodes: the names of the nodes that can be switched.
        kept: the names of those that run in float32.
    """

    def __init__(
        self,
        single: onnx.ModelProto,
        quantized: onnx.ModelProto,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int,
    ) -> None:
        super().__init__(inputs, outputs, max_batch)
        self.nodes = quantizable(single)
        self.kept: Collection[str] = ()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERROR_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = _with_switches(single, quantized, self.nodes)
        self._session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(feeds, self.inputs, self.max_batch)
        keep = np.array([name in self.kept for name in self.nodes])
        names = [spec.name for spec in self.outputs]
        answer: Any = self._session.run(names, {**feeds, KEEP: keep})
        return dict(zip(names, answer, strict=True))


def _with_switches(single: onnx.ModelProto, quantized: onnx.ModelProto, names: tuple[str, ...]) -> onnx.ModelProto:
    """A quantized activation is quantized for all who read it, a weight for its node alone."""
    model = onnx.ModelProto()
    model.CopyFrom(quantized)
    plain = {node.name: list(node.input) for node in single.graph.node}
    weights = {tensor.name: tensor for tensor in single.graph.initializer}
    switches: dict[str, list[int]] = {}
    sources: dict[str, str] = {}
    for node in model.graph.node:
        if node.name in names:
            for position in (0, 1):
                given, wanted = node.input[position], plain[node.name][position]
                if given != wanted:
                    switches.setdefault(given, []).append(names.index(node.name))
                    sources[given] = wanted
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        for given in [output for output in node.output if output in switches]:
            nodes += _switch(model.graph, given, sources[given], switches[given])
            if sources[given] in weights:
                model.graph.initializer.append(weights[sources[given]])
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear":
            node.input[:] = [f"{name}.switched" if name in switches else name for name in node.input]
    model.graph.input.append(helper.make_tensor_value_info(KEEP, TensorProto.BOOL, [len(names)]))
    return with_nodes(model, nodes)


def _switch(graph: onnx.GraphProto, given: str, source: str, readers: list[int]) -> list[onnx.NodeProto]:
    """``source`` where all of its readers are kept, else ``given``, what quantizing leaves of it."""
    at, kept = f"{given}.readers", f"{given}.kept"
    graph.initializer.append(numpy_helper.from_array(np.array(readers, np.int64), at))
    return [
        helper.make_node("Gather", [KEEP, at], [f"{kept}.each"]),
        helper.make_node("Cast", [f"{kept}.each"], [f"{kept}.number"], to=TensorProto.INT32),
        helper.make_node("ReduceMin", [f"{kept}.number"], [f"{kept}.least"], keepdims=1),
        helper.make_node("Cast", [f"{kept}.least"], [kept], to=TensorProto.BOOL),
        helper.make_node("Where", [kept, source, given], [f"{given}.switched"]),
    ]
