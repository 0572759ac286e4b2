"""INT8 by quantize / dequantize pairs in the graph, with the settings that TensorRT takes; float32 at the edges.

Symmetric int8 for activations, one scale a tensor, and for weights, one scale an output channel; biases stay float32
(TensorRT refuses int32 biases). Only what goes into a convolution or a product is quantized: what comes out is still
to be added, clipped or activated, and would lose twice. What reads the picture itself stays in float32: 254 levels over
the window would be steps of six Hounsfield units, and there is next to nothing to gain from a single channel.
"""

import logging
import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

from .calibrate import OPERATORS
from .to_onnx import save_onnx

#: Operators that move values about and compute none.
MOVES = {"Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
EXTRA = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "OpTypesToExcludeOutputQuantization": list(OPERATORS),
}


def quantizable(model: onnx.ModelProto) -> tuple[str, ...]:
    """The names of the nodes that int8 can take: those with constant weights that do not read the picture itself, in
    the order in which they run."""
    weights = {tensor.name for tensor in model.graph.initializer}
    picture = {tensor.name for tensor in model.graph.input}
    names: list[str] = []
    for node in model.graph.node:
        if node.op_type in MOVES and picture.intersection(node.input):
            picture.update(node.output)
        elif node.op_type in OPERATORS and node.input[1] in weights and node.input[0] not in picture:
            names.append(node.name)
    return tuple(names)


def quantized_nodes(model: onnx.ModelProto) -> set[str]:
    """The names of the convolutions and products whose input and weights come out of quantize / dequantize pairs."""
    pairs = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    return {node.name for node in model.graph.node if node.op_type in OPERATORS and pairs.issuperset(node.input[:2])}


def quantize(
    network: Path, target: Path, ranges: TensorsData, *, kept: Collection[str], seven_bits: bool = False
) -> None:
    """Write the int8 form of a float32 ONNX network.

    Args:
        ranges: of every activation, as ``calibrate`` gives them.
        kept: names of the nodes that stay in float32.
        seven_bits: weights take half of the levels, for CPUs on which sums of int8 products overflow
            (``machine.saturates_int8``).
    """
    model = onnx.load_model(network)
    taken = [name for name in quantizable(model) if name not in kept]
    if not taken:
        save_onnx(model, target)
        return
    # The library asks on the log for a preprocessing that the exporter has done already.
    prepared = model.metadata_props.add()
    prepared.key, prepared.value = "onnx.quant.pre_process", "onnxruntime.quant"
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        work = Path(folder)
        onnx.save_model(model, work / "single.onnx")
        save_tensors_data(ranges, work / "ranges.json")
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)
        try:
            quantize_static(
                work / "single.onnx",
                work / "int8.onnx",
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_quantize=taken,
                reduce_range=seven_bits,
                calibrate_method=ranges.calibration_method,
                calibration_cache_path=work / "ranges.json",
                extra_options=EXTRA,
            )
        finally:
            logging.root.setLevel(level)
        save_onnx(onnx.load_model(work / "int8.onnx"), target)
