"""ONNX Runtime on the GPU, through its CUDA provider: where no plan is, and for what TensorRT does not take."""

import contextlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime

from ..model.errors import UsageError
from .base import TensorSpec
from .cuda_engine import CudaEngine, shape_of
from .load_errors import cannot_load

PROVIDER = "CUDAExecutionProvider"
ERROR_ONLY = 3


class OnnxRuntimeCudaEngine(CudaEngine):
    """An ONNX file in an ONNX Runtime session on the GPU, every node of it.

    Args:
        path: the ONNX file.
        graphs: whether copies and kernels of a batch size are captured on its first use and replayed afterwards.

    Raises:
        UsageError: no GPU, a node that the provider does not run, or the file cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int,
        *,
        graphs: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, max_batch, graphs=graphs)
        try:
            load_libraries()
            self._session = _open_session(path, self._cuda.stream)
            self._allocate()
        except BaseException:
            self._cuda.close()
            raise
        self._bindings: dict[int, Any] = {}
        self._options = onnxruntime.RunOptions()
        # Waiting is the engine's own business, and nothing may wait while a graph is captured.
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def close(self) -> None:
        self._bindings.clear()
        # The stream goes after the session that runs on it.
        del self._session
        super().close()

    def _compute(self, batch: int) -> None:
        if batch not in self._bindings:
            self._bindings[batch] = self._bind(batch)
        try:
            self._session.run_with_iobinding(self._bindings[batch], self._options)
        except Exception as error:  # onnxruntime raises a dozen types of its own, all Exception
            raise UsageError(f"ONNX Runtime cannot run this batch of {batch} on the GPU: {_first(error)}") from error

    def _bind(self, batch: int) -> Any:
        binding = self._session.io_binding()
        for bind, specs in ((binding.bind_input, self.inputs), (binding.bind_output, self.outputs)):
            for spec in specs:
                bind(spec.name, "cuda", 0, spec.dtype, shape_of(spec, batch), self._buffers[spec.name].address)
        return binding


@cache
def load_libraries() -> None:
    """CUDA and cuDNN from NVIDIA's wheels, where they lie beside ONNX Runtime; it says on stdout what it misses."""
    with contextlib.redirect_stdout(sys.stderr):
        onnxruntime.preload_dlls()


def _open_session(path: Path, stream: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERROR_ONLY
    # A node that the GPU does not run is an error, not a silent detour over the CPU.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # Its second run would allocate otherwise than its first, and a capture may not allocate.
    options.enable_mem_pattern = False
    provider = {
        "user_compute_stream": str(stream),
        # fp32 means fp32: TF32 keeps 10 bits of the 23.
        "use_tf32": "0",
        # Tensor cores want the channels last.
        "prefer_nhwc": "1",
    }
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[(PROVIDER, provider)], enable_fallback=0)
    except Exception as error:  # as where it runs
        raise cannot_load("ONNX Runtime on CUDA", path, error) from error
    if PROVIDER not in session.get_providers():
        raise UsageError(
            "ONNX Runtime fell back to the CPU: its CUDA provider finds no GPU, or libraries of another CUDA"
        )
    return session


def _first(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
