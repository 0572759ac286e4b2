"""What a model's file says about itself: the tensors of an ONNX file, the runtime and version of a TensorRT plan."""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engines.bundle import Runtime
from ...model.errors import MissingPackageError, UsageError

#: Triton's names of ONNX's element types.
ONNX_TYPES = {
    "BOOL": "BOOL", "UINT8": "UINT8", "UINT16": "UINT16", "UINT32": "UINT32", "UINT64": "UINT64", "INT8": "INT8",
    "INT16": "INT16", "INT32": "INT32", "INT64": "INT64", "FLOAT16": "FP16", "FLOAT": "FP32", "DOUBLE": "FP64",
    "STRING": "STRING", "BFLOAT16": "BF16",
}  # fmt: skip
DYNAMIC = -1
#: A plan begins with its runtime's tag; byte 24 and the three behind it are the version, as `trtexec
#: --getPlanVersionOnly` reads them (NVIDIA/TensorRT, samples/common/sampleEngines.cpp).
PLAN_TAGS: dict[bytes, Runtime] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}
PLAN_HEADER = struct.Struct("<4sI16x4B")


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model: Triton's name of its type (``FP32``), and every axis, -1 for one of any size.

    ``shape`` is None where a file does not even say how many axes there are.
    """

    name: str
    dtype: str
    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        return f"{self.dtype} [{', '.join('?' if size == DYNAMIC else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a file by name, the batch axis among their axes."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@dataclass(frozen=True)
class PlanHeader:
    """What built a plan: one of the two TensorRTs, in a version such as ``11.1.0.106``."""

    runtime: Runtime
    version: str


def read_onnx(path: Path) -> Signature:
    """The tensors of an ONNX file; weights that lie in other files are not read.

    Raises:
        MissingPackageError: onnx is not installed.
        UsageError: the file is not ONNX.
    """
    try:
        import onnx
    except ModuleNotFoundError:
        raise MissingPackageError("onnx", purpose="reading ONNX files", extra="cpu") from None
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load_model(path, load_external_data=False).graph
    except (DecodeError, OSError, ValueError) as error:
        raise UsageError(f"not an ONNX file ({' '.join(str(error).split())})") from None
    if not graph.output:
        raise UsageError("not an ONNX file (a graph without outputs)")
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [_tensor(value) for value in graph.input if value.name not in weights]
    outputs = [_tensor(value) for value in graph.output]
    return Signature({each.name: each for each in inputs}, {each.name: each for each in outputs})


def read_plan_header(path: Path) -> PlanHeader:
    """What built a TensorRT plan, from its first bytes; neither TensorRT nor a GPU is needed.

    Raises:
        UsageError: the file is not a plan.
    """
    with path.open("rb") as file:
        head = file.read(PLAN_HEADER.size)
    if len(head) < PLAN_HEADER.size:
        raise UsageError(f"not a TensorRT plan ({len(head)} bytes)")
    tag, layout, *version = PLAN_HEADER.unpack(head)
    if tag not in PLAN_TAGS or layout != 0:
        raise UsageError(f"not a TensorRT plan (it begins with {head[:8].hex()})")
    return PlanHeader(PLAN_TAGS[tag], ".".join(map(str, version)))


def _tensor(value: Any) -> Tensor:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    name = TensorProto.DataType.Name(tensor.elem_type)
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else DYNAMIC for axis in tensor.shape.dim)
    return Tensor(value.name, ONNX_TYPES.get(name, name), shape if tensor.HasField("shape") else None)
