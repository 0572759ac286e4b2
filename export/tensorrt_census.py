"""What TensorRT made of a network: the types of its layers as parsed and as built, and whether they are what was asked.

A strongly typed network computes in the types that it was parsed with, so the first census needs no GPU. The second
reads the engine's own inspector, which does.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from ..engines.bundle import Gate, Precision

CONVOLUTIONS = ("CONVOLUTION", "DECONVOLUTION")
COMPUTE = (*CONVOLUTIONS, "MATRIX_MULTIPLY")
#: TensorRT's name for the type that a layer must take and give.
TYPES: dict[Precision, str] = {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8"}
NAMED_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


@dataclass(frozen=True)
class Layer:
    """A layer of the parsed network.

    Attributes:
        node: the ONNX node that it came from.
        kind: TensorRT's type of layer, such as ``"CONVOLUTION"``.
        types: of its inputs and outputs, such as ``"HALF"``.
        quantised: whether every input, weights included, comes straight from a DequantizeLinear.
    """

    node: str
    kind: str
    types: frozenset[str]
    quantised: bool


@dataclass(frozen=True)
class Census:
    """Every layer of a network, in order."""

    layers: tuple[Layer, ...]

    def of_kind(self, kinds: Collection[str]) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers if layer.kind in kinds)


def take_census(network: Any) -> Census:
    """The census of a network as TensorRT parsed it (an ``INetworkDefinition``)."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made_by = {layer.get_output(index).name: layer.type.name for layer in layers for index in range(layer.num_outputs)}
    return Census(tuple(_describe(layer, made_by) for layer in layers))


def judge(census: Census, precision: Precision, kept: Collection[str] = ()) -> Gate:
    """Whether the network computes in the precision that was asked for.

    fp32 and fp16: every convolution and matrix product takes and gives that type, unquantised. int8: every convolution
    is quantised, and there is one.

    Args:
        kept: ONNX nodes that were left in a higher precision on purpose.
    """
    layers = census.of_kind(CONVOLUTIONS if precision == "int8" else COMPUTE)
    right = [layer for layer in layers if _is(layer, precision)]
    excused = [layer for layer in layers if layer not in right and layer.node in kept]
    wrong = tuple(layer.node for layer in layers if layer not in right and layer.node not in kept)
    figures = {
        "layers": float(len(census.layers)),
        "compute_layers": float(len(layers)),
        f"{precision}_layers": float(len(right)),
        "kept_layers": float(len(excused)),
    }
    if wrong or not right:
        found = f"{len(wrong)} of {len(layers)} do not compute in {precision}" if wrong else f"no layer is {precision}"
        return Gate(gate="precision", verdict="refused", reason=f"as parsed: {found}", figures=figures, nodes=wrong)
    nodes = tuple(layer.node for layer in excused)
    return Gate(gate="precision", verdict="passed", reason="as parsed", figures=figures, nodes=nodes)


def judge_engine(census: Census, inspector: str, precision: Precision, kept: Collection[str] = ()) -> Gate:
    """The same of the built engine, of what its inspector says in JSON; ``census`` names the nodes to look for.

    Layers are fused, so a node's type is that of the inputs of the layers that name it.
    """
    seen = _inspected_types(inspector)
    nodes = [layer.node for layer in census.of_kind(CONVOLUTIONS if precision == "int8" else COMPUTE)]
    looked = [node for node in nodes if node in seen and node not in kept]
    wrong = tuple(node for node in looked if not _is_built(seen[node], precision))
    figures = {"compute_layers": float(len(nodes)), "inspected_layers": float(len(looked))}
    if wrong:
        reason = f"as built: {len(wrong)} of {len(looked)} do not compute in {precision}"
        return Gate(gate="precision", verdict="refused", reason=reason, figures=figures, nodes=wrong)
    if not looked:
        reason = "as built: the inspector names no node"
        return Gate(gate="precision", verdict="not_run", reason=reason, figures=figures)
    return Gate(gate="precision", verdict="passed", reason="as built", figures=figures)


def _describe(layer: Any, made_by: Mapping[str, str]) -> Layer:
    inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
    inputs = [tensor for tensor in inputs if tensor is not None]
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    return Layer(
        node=layer.name,
        kind=layer.type.name,
        types=frozenset(tensor.dtype.name for tensor in (*inputs, *outputs)),
        quantised=bool(inputs) and all(made_by.get(tensor.name) == "DEQUANTIZE" for tensor in inputs),
    )


def _is(layer: Layer, precision: Precision) -> bool:
    if precision == "int8":
        return layer.quantised
    return layer.types == frozenset({TYPES[precision]}) and not layer.quantised


def _is_built(types: Collection[str], precision: Precision) -> bool:
    if precision == "fp32":
        return not {"HALF", "INT8"} & set(types)
    return TYPES[precision] in types


def _inspected_types(inspector: str) -> dict[str, set[str]]:
    """The types of the inputs of every layer that names a node, by node."""
    seen: dict[str, set[str]] = {}
    for layer in cast(Iterable[object], json.loads(inspector).get("Layers", ())):
        if not isinstance(layer, dict):  # a bare name, where the engine was built without details
            continue
        fields = cast(dict[str, Any], layer)
        for node in NAMED_NODE.findall(f"{fields.get('Metadata', '')}"):
            seen.setdefault(node, set()).update(_type_of(tensor) for tensor in fields.get("Inputs") or ())
    return seen


def _type_of(tensor: Mapping[str, object]) -> str:
    """TensorRT 10 writes ``Format/Datatype``, "Half" or "Row major linear FP16 format"; 11 a type of its own."""
    text = str(tensor.get("DataType") or tensor.get("Datatype") or tensor.get("Format/Datatype") or "").lower()
    for name, spellings in (("INT8", ("int8",)), ("HALF", ("half", "fp16")), ("FLOAT", ("float", "fp32"))):
        if any(spelling in text for spelling in spellings):
            return name
    return text.upper()
