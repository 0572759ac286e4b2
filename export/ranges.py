"""The range preflight: what every node of a network puts out on real slices, and whether float16 can hold it.

float16 ends at 65504, and below 6.1e-5 (its smallest normal number) it loses digits until nothing is left.
"""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..engines.bundle import Gate, Verdict
from ..engines.parity import Reference
from .calibrate import OPERATORS

LARGEST = 65504.0
SMALLEST_NORMAL = 2.0**-14
#: Slices that the preflight reads.
PREFLIGHT_SLICES = 8


@dataclass(frozen=True)
class Extent:
    """A node's output over all slices, or its weights: largest magnitude and root mean square."""

    largest: float
    root_mean_square: float

    @property
    def problem(self) -> str:
        """What float16 would make of it; empty where it holds it."""
        if not self.largest <= LARGEST:
            return f"overflows (up to {self.largest:.2g})"
        if self.largest > 0 and self.root_mean_square < SMALLEST_NORMAL:
            return f"is subnormal (about {self.root_mean_square:.2g})"
        return ""


def preflight(network: Path, reference: Reference) -> Gate:
    """The gate's verdict on a float32 ONNX network, by a few of the slices of the reference, spread evenly."""
    every = max(1, len(reference.answers) // PREFLIGHT_SLICES)
    pixels = [answer.pixels for answer in reference.answers[::every]]
    return judge_ranges(network, measure_ranges(network, pixels), real=reference.slices.real)


def measure_ranges(network: Path, pixels: list[NDArray[np.float32]]) -> dict[str, Extent]:
    """The extent of every float32 tensor that a node of an ONNX network puts out or reads as a weight, by tensor.

    Args:
        pixels: what the network sees of the slices, each float32 ``[1, 1, h, w]``.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load_model(network))
    graph = model.graph
    extents = {
        tensor.name: _extent(np.abs(numpy_helper.to_array(tensor).astype(np.float64)))
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and tensor.dims
    }
    floats = {
        value.name
        for value in (*graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }
    tensors = [output for node in graph.node for output in node.output if output in floats]
    figures = ("ReduceMax", "ReduceMin", "ReduceL2", "Size")
    for tensor, figure in product(tensors, figures):
        name = f"{tensor}.{figure}"
        node = helper.make_node(figure, [tensor], [name])
        kind = TensorProto.INT64
        if figure != "Size":
            node.attribute.append(helper.make_attribute("keepdims", 0))
            kind = TensorProto.FLOAT
        graph.node.append(node)
        graph.output.append(helper.make_tensor_value_info(name, kind, []))
    session = _open(model)
    names = [f"{tensor}.{figure}" for tensor, figure in product(tensors, figures)]
    runs: list[Any] = [session.run(names, {"pixels": slice_}) for slice_ in pixels]
    seen = np.array(runs, np.float64).reshape(len(pixels), len(tensors), len(figures))
    for tensor, (highest, lowest, norm, size) in zip(tensors, seen.transpose(1, 2, 0), strict=True):
        # NumPy's maximum, which keeps what is not a number.
        largest = np.maximum(highest, -lowest).max()
        extents[tensor] = Extent(float(largest), float(np.sqrt(np.mean(norm**2 / size))))
    return extents


def _open(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """Every tensor is read as soon as it is there, and its memory is free for the next: .4 GB instead of 2.9 for the
    3-class network that ships."""
    options = onnxruntime.SessionOptions()
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def judge_ranges(network: Path, extents: dict[str, Extent], *, real: bool = True) -> Gate:
    """Which nodes float16 cannot hold: ``nodes`` are those that make such a tensor and those that read one.

    Refused where no convolution or product is left for float16; not run where the slices were not real, though what
    was found on them is kept back all the same.
    """
    problems = {tensor: extent.problem for tensor, extent in extents.items() if extent.problem}
    named: list[str] = []
    kept: dict[str, None] = {}
    nodes = onnx.load_model(network, load_external_data=False).graph.node
    for tensor, problem in problems.items():
        touching = [node.name for node in nodes if tensor in node.output or tensor in node.input]
        kept |= dict.fromkeys(touching)
        maker = next((node.name for node in nodes if tensor in node.output), f"the weight {tensor}")
        named.append(f"{maker} {problem}")
    reason = f"kept in float32, with what reads them: {'; '.join(named)}" if named else ""
    operators = {node.name for node in nodes if node.op_type in OPERATORS}
    verdict: Verdict = "passed" if real else "not_run"
    if operators and operators <= kept.keys():
        verdict, reason = "refused", f"no convolution or product is left for float16: {'; '.join(named)}"
    elif not real:
        reason = reason or "seen on synthetic slices only"
    largest = [extent.largest for extent in extents.values() if np.isfinite(extent.largest)]
    figures = {"largest": max(largest, default=0.0), "kept": float(len(kept))}
    return Gate(gate="range", verdict=verdict, reason=reason, figures=figures, nodes=tuple(kept))


def _extent(magnitudes: NDArray[np.float64]) -> Extent:
    return Extent(
        float(magnitudes.max(initial=0.0)), float(np.sqrt(np.mean(magnitudes**2))) if magnitudes.size else 0.0
    )
