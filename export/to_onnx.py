"""Torch modules to ONNX files that every supported runtime reads."""

import contextlib
import gc
import io
import logging
import sys
import warnings
from collections.abc import Generator, Hashable
from pathlib import Path
from typing import TextIO

import onnx
import torch
from torch import nn

from ..engines.base import DYNAMIC
from ..engines.bundle import Graph, TensorRecord
from ..model.card import Card
from ..model.errors import RefusedError
from ..model.pixels import Preprocess, build_decide
from .export_errors import cannot_export

#: The oldest that torch's exporter writes natively, and TensorRT 10, Triton 24.10 and OpenVINO all read.
OPSET = 18
IR_VERSION = 8
#: An odd, non-square slice, so that nothing in a trace can mistake height for width.
EXAMPLE_GRID = (97, 131)
NUMPY_NAMES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.INT16: "int16",
    onnx.TensorProto.UINT8: "uint8",
}


def contract(card: Card, graph: Graph) -> tuple[tuple[TensorRecord, ...], tuple[TensorRecord, ...]]:
    """The inputs and outputs that a graph of this card must have, by name, dtype and shape."""
    height, width = card.geometry.height, card.geometry.width
    image = TensorRecord(name="image", dtype="int16", shape=(DYNAMIC, DYNAMIC, DYNAMIC))
    pixels = TensorRecord(name="pixels", dtype="float32", shape=(DYNAMIC, 1, height, width))
    task = card.spec
    shape = (DYNAMIC, task.channels, height, width) if task.is_segmentation else (DYNAMIC, task.channels)
    logits = TensorRecord(name="logits", dtype="float32", shape=shape)
    match graph:
        case "preprocess":
            return (image,), (pixels,)
        case "network":
            return (pixels,), (logits,)
        case "decide" if task.is_segmentation:
            return (logits, image), (TensorRecord(name="mask", dtype="uint8", shape=(DYNAMIC, DYNAMIC, DYNAMIC)),)
        case "decide":
            return (logits,), (TensorRecord(name="probability", dtype="float32", shape=(DYNAMIC, 1)),)


def export_graph(card: Card, graph: Graph, network: nn.Module, path: Path) -> None:
    """Write a graph in float32 and hold it against its contract.

    Raises:
        UsageError: torch cannot export the network.
        RefusedError: the file's inputs or outputs are not the contract's.
    """
    inputs, outputs = contract(card, graph)
    if graph == "network":
        model = _export(network, inputs, outputs)
    else:
        model = _export_end(Preprocess(card) if graph == "preprocess" else build_decide(card), inputs, outputs)
    save_onnx(model, path)
    check_contract(path, inputs, outputs)


#: The ends that this process has exported, by their class, their numbers and their contract: networks share them.
_ENDS: dict[Hashable, onnx.ModelProto] = {}


def _export_end(
    module: nn.Module, inputs: tuple[TensorRecord, ...], outputs: tuple[TensorRecord, ...]
) -> onnx.ModelProto:
    """The graph of an end, which has numbers and no weights."""
    numbers = tuple((name, value) for name, value in vars(module).items() if not name.startswith("_"))
    key = (type(module), numbers, inputs, outputs)
    if key not in _ENDS:
        _ENDS[key] = _export(module, inputs, outputs)
    return _ENDS[key]


def _export(module: nn.Module, inputs: tuple[TensorRecord, ...], outputs: tuple[TensorRecord, ...]) -> onnx.ModelProto:
    example = tuple(_example(record) for record in inputs)
    dynamic = tuple(
        {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(record.shape) if size == DYNAMIC}
        for record in inputs
    )
    try:
        with _quiet(), _uncollected():
            program = torch.onnx.export(
                module.eval(),
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=[record.name for record in inputs],
                output_names=[record.name for record in outputs],
                dynamic_shapes=dynamic,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise cannot_export(error) from None
    assert program is not None
    return program.model_proto


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model without the exporter's notes, which name source files of the machine, in the oldest IR."""
    model.ir_version = IR_VERSION
    del model.metadata_props[:]
    model.doc_string = ""
    graph = model.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, path)


def check_contract(path: Path, inputs: tuple[TensorRecord, ...], outputs: tuple[TensorRecord, ...]) -> None:
    """Hold a file's interface against the contract: names, then axes, then sizes and dtypes.

    Raises:
        RefusedError: the first rung that does not hold, with expected and found.
    """
    graph = onnx.load_model(path, load_external_data=False).graph
    for kind, wanted, found in (("inputs", inputs, graph.input), ("outputs", outputs, graph.output)):
        names = [tensor.name for tensor in found]
        if names != [record.name for record in wanted]:
            raise _refused(path, f"{kind} {[record.name for record in wanted]}", f"found {names}")
        for record, tensor in zip(wanted, found, strict=True):
            _check_tensor(path, record, tensor)


def _check_tensor(path: Path, record: TensorRecord, tensor: onnx.ValueInfoProto) -> None:
    kind = tensor.type.tensor_type
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else DYNAMIC for axis in kind.shape.dim)
    if len(shape) != len(record.shape):
        raise _refused(path, f"{record.spec} with {len(record.shape)} axes", f"found {len(shape)}")
    # A dynamic axis of an output may be deduced as anything; a fixed axis must be what the contract says.
    if any(
        wanted != DYNAMIC and size not in (wanted, DYNAMIC) for wanted, size in zip(record.shape, shape, strict=True)
    ):
        raise _refused(path, str(record.spec), f"found shape {list(shape)}")
    if any(wanted == DYNAMIC and size != DYNAMIC for wanted, size in zip(record.shape, shape, strict=True)):
        raise _refused(path, str(record.spec), f"but an axis was fixed: {list(shape)}")
    dtype = NUMPY_NAMES.get(kind.elem_type, onnx.TensorProto.DataType.Name(kind.elem_type))
    if dtype != record.dtype:
        raise _refused(path, str(record.spec), f"found {dtype}")


def _refused(path: Path, expected: str, found: str) -> RefusedError:
    return RefusedError(f"{path.name}: expected {expected}, {found}", page="gate-refused")


def _example(record: TensorRecord) -> torch.Tensor:
    grid = iter((2, *EXAMPLE_GRID))
    shape = [next(grid) if size == DYNAMIC else size for size in record.shape]
    dtype = {"int16": torch.int16, "float32": torch.float32, "uint8": torch.uint8}[record.dtype]
    return torch.zeros(shape, dtype=dtype)


class _Swallowed(io.StringIO):
    """Takes what is printed to stderr; rich's consoles ask for the attribute, and go on writing to the real one."""

    def __init__(self, real: TextIO) -> None:
        super().__init__()
        self.rich_proxied_file = getattr(real, "rich_proxied_file", real)


@contextlib.contextmanager
def _uncollected() -> Generator[None]:
    """A conversion makes hundreds of thousands of objects that live to its end; to look for dead ones among them again
    and again takes a sixth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """The exporter prints its progress, warns about its own internals, and prints whole graphs where it fails."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(_Swallowed(sys.stderr)),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
