"""The only place that knows every backend."""

import importlib.util
from pathlib import Path
from typing import Literal, get_args

from ..model.errors import MissingPackageError, UsageError
from .base import Engine, TensorSpec
from .bundle import Bundle, Graph, Precision
from .tensorrt_runtime import installed_runtimes

Backend = Literal["torch", "onnxruntime", "openvino", "torch_cuda", "onnxruntime_cuda", "tensorrt"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
#: What each backend computes in, and the precision of the ONNX file that it reads for it, or that its plan was built
#: from. bf16 is arithmetic only: the file stays fp32, as it does on torch_cuda, which casts the weights itself.
PRECISIONS: dict[Backend, dict[Precision, Precision]] = {
    "torch": {"fp32": "fp32"},
    "onnxruntime": {"fp32": "fp32", "fp16": "fp16", "int8": "int8"},
    "openvino": {"fp32": "fp32", "bf16": "fp32", "int8": "int8"},
    "torch_cuda": {"fp32": "fp32", "fp16": "fp32"},
    "onnxruntime_cuda": {"fp32": "fp32", "fp16": "fp16"},
    "tensorrt": {"fp32": "fp32", "fp16": "fp16", "int8": "int8"},
}
EXTRAS: dict[Backend, str] = {
    "torch": "train",
    "onnxruntime": "cpu",
    "openvino": "cpu",
    "torch_cuda": "train",
    "onnxruntime_cuda": "gpu",
    "tensorrt": "rtx",
}
#: What brings a backend that is not named after its package.
PACKAGES: dict[Backend, str] = {"torch_cuda": "torch for CUDA", "onnxruntime_cuda": "onnxruntime-gpu"}
#: Those that read the ONNX files of a bundle.
ONNX_BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino", "onnxruntime_cuda")
#: Those that run on the GPU; the others run on the CPU.
GPU_BACKENDS: frozenset[Backend] = frozenset({"torch_cuda", "onnxruntime_cuda", "tensorrt"})


def is_installed(backend: Backend) -> bool:
    """Whether the backend can be imported; TensorRT in either of its forms. Whether it works here is not asked."""
    match backend:
        case "tensorrt":
            return bool(installed_runtimes())
        case "onnxruntime_cuda":
            return _has_file("onnxruntime", "capi/*onnxruntime_providers_cuda.*")
        case "torch_cuda":
            return _has_file("torch", "lib/*torch_cuda.*")
        case _:
            return importlib.util.find_spec(backend) is not None


def open_engine(
    bundle: Bundle,
    *,
    graph: Graph = "network",
    backend: Backend | Literal["auto"] = "onnxruntime",
    precision: Precision = "fp32",
    threads: int | None = None,
    graphs: bool = True,
    unproved: bool = False,
) -> Engine:
    """One graph of a bundle, ready to run.

    Args:
        bundle: an open bundle, hashes checked.
        graph: ``preprocess``, ``network`` or ``decide``; the first and last run on ``torch`` or ``onnxruntime``.
        backend: a backend, or ``auto``: the fastest backend and precision that passed the gates on this machine, as
            recorded, or measured now where nothing is; ``precision`` plays no part then.
        threads: threads for one inference; None leaves the choice to the backend.
        graphs: whether a GPU replays a CUDA graph for each batch size.
        unproved: whether to open a TensorRT plan that has never run too, as the gates must.

    Raises:
        MissingPackageError: the backend is not installed.
        UsageError: the backend has no such precision, or the bundle no such file, or no plan for this machine.
        RefusedError: the plan for this machine has not been proved.
    """
    if backend == "auto":
        if graph != "network":
            raise UsageError(f"auto chooses for networks alone: run {graph} on onnxruntime")
        from .ranking import choose

        chosen = choose({bundle.card.task: bundle})[bundle.card.task]
        backend, precision = chosen.backend, chosen.precision
    if backend == "tensorrt":
        file_precision(backend, precision)
        _require(backend)
        if graph != "network":
            raise UsageError(f"{graph} has no TensorRT plan: run it on onnxruntime")
        from .tensorrt_engine import open_tensorrt

        return open_tensorrt(bundle, precision, unproved=unproved, graphs=graphs)
    record = bundle.require(graph, file_precision(backend, precision))
    if backend == "torch":
        _require(backend)
        from .torch_engine import open_torch

        return open_torch(bundle, graph, record)
    if backend == "torch_cuda":
        _require(backend)
        if graph != "network":
            raise UsageError(f"{graph} has no form for {backend}: run it on onnxruntime")
        from .torch_cuda_engine import open_torch_cuda

        half = precision == "fp16"
        return open_torch_cuda(bundle, record, precision="fp16" if half else "fp32", graphs=graphs)
    return open_onnx(
        bundle.file(record),
        tuple(tensor.spec for tensor in record.inputs),
        tuple(tensor.spec for tensor in record.outputs),
        record.batch.max if record.batch else 1,
        backend=backend,
        precision=precision,
        threads=threads,
        graphs=graphs,
    )


def open_onnx(
    path: Path,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    max_batch: int,
    *,
    backend: Backend,
    precision: Precision,
    threads: int | None = None,
    graphs: bool = True,
) -> Engine:
    """An ONNX file of a bundle, wherever it was copied to, on a backend that reads ONNX; ``graphs`` as in
    ``open_engine``.

    Raises:
        MissingPackageError: the backend is not installed.
        UsageError: the backend does not read ONNX or has no such precision.
    """
    file_precision(backend, precision)
    _require(backend)
    match backend:
        case "onnxruntime":
            from .onnxruntime_engine import OnnxRuntimeEngine

            return OnnxRuntimeEngine(path, inputs, outputs, max_batch, threads=threads)
        case "openvino":
            from .openvino_engine import OpenVinoEngine

            arithmetic = "bf16" if precision == "bf16" else "fp32"
            return OpenVinoEngine(path, inputs, outputs, max_batch, precision=arithmetic, threads=threads)
        case "onnxruntime_cuda":
            from .onnxruntime_cuda_engine import OnnxRuntimeCudaEngine

            return OnnxRuntimeCudaEngine(path, inputs, outputs, max_batch, graphs=graphs)
        case "torch" | "torch_cuda" | "tensorrt":
            raise UsageError(f"{backend} does not run {path}: open the bundle with backend='{backend}'")


def file_precision(backend: Backend, precision: Precision) -> Precision:
    """The precision of the ONNX file that a backend reads to compute in ``precision``.

    Raises:
        UsageError: no such backend, or the backend has no such precision.
    """
    if backend not in PRECISIONS:
        raise UsageError(f"no backend '{backend}': expected one of {', '.join(BACKENDS)}")
    files = PRECISIONS[backend]
    if precision not in files:
        raise UsageError(f"{backend} has no {precision} here: expected one of {', '.join(files)}")
    return files[precision]


def _has_file(package: str, pattern: str) -> bool:
    """Whether an installed package has such a file: what it was built for, without the seconds that importing takes."""
    found = importlib.util.find_spec(package)
    return found is not None and found.origin is not None and any(Path(found.origin).parent.glob(pattern))


def _require(backend: Backend) -> None:
    if not is_installed(backend):
        raise MissingPackageError(
            PACKAGES.get(backend, backend), purpose=f"the {backend} backend", extra=EXTRAS[backend]
        )
