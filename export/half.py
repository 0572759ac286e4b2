"""FP16 by graph conversion: half-precision weights and arithmetic, float32 at the edges."""

from pathlib import Path

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from .to_onnx import save_onnx


def convert_to_half(source: Path, target: Path) -> None:
    """Write the float16 form of a float32 ONNX network; inputs and outputs stay float32."""
    single = onnx.load_model(source)
    _forget_weight_types(single.graph)
    model = OnnxModel(convert_float_to_float16(single, keep_io_types=True))
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


def count_half_weights(path: Path) -> tuple[int, int]:
    """How many values of a network's weights are float16, and how many there are: proof that it was converted."""
    half = total = 0
    for tensor in onnx.load_model(path).graph.initializer:
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            size = 1
            for axis in tensor.dims:
                size *= axis
            total += size
            half += size if tensor.data_type == onnx.TensorProto.FLOAT16 else 0
    return half, total
