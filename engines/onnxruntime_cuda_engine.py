"""ONNX Runtime on the GPU, through its CUDA provider: the exported file itself, where no plan is."""

import contextlib
import sys
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime

from ..model.errors import UsageError
from .base import TensorSpec
from .cuda_engine import CudaEngine, shape_of
from .cuda_memory import open_cuda
from .load_errors import cannot_load, cannot_run

PROVIDER = "CUDAExecutionProvider"
FATAL_ONLY = 4
#: The name under which ONNX Runtime keeps no graph.
NO_GRAPH = -1


class OnnxRuntimeCudaEngine(CudaEngine):
    """An ONNX file in an ONNX Runtime session on the GPU, every node of it.

    It has a stream and CUDA graphs of its own: its kernels' parameters lie in memory that it would free too early for
    graphs of ours.

    Args:
        path: the ONNX file.
        graphs: whether the kernels of a batch size are captured on its first use and replayed afterwards.

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
        super().__init__(open_cuda(), inputs, outputs, max_batch, graphs=False)
        self._replays = graphs
        try:
            load_libraries()
            self._session = _open_session(path, graphs=graphs)
            self._allocate()
        except BaseException:
            self._cuda.close()
            raise
        self._bindings: dict[int, tuple[Any, onnxruntime.RunOptions]] = {}

    @property
    def replays_graphs(self) -> bool:
        return self._replays

    def close(self) -> None:
        self._bindings.clear()
        del self._session
        super().close()

    def _compute(self, batch: int) -> None:
        if batch not in self._bindings:
            self._bindings[batch] = self._bind(batch)
        # The copies are on our stream, the kernels on its own, which a run waits for.
        self._cuda.synchronise()
        try:
            self._session.run_with_iobinding(*self._bindings[batch])
        except Exception as error:  # onnxruntime raises a dozen types of its own, all Exception
            raise cannot_run("ONNX Runtime on CUDA", batch, error) from error

    def _bind(self, batch: int) -> tuple[Any, onnxruntime.RunOptions]:
        binding = self._session.io_binding()
        for bind, specs in ((binding.bind_input, self.inputs), (binding.bind_output, self.outputs)):
            for spec in specs:
                bind(spec.name, "cuda", 0, spec.dtype, shape_of(spec, batch), self._buffers[spec.name].address)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(batch if self._replays else NO_GRAPH))
        return binding, options


@cache
def load_libraries() -> None:
    """CUDA and cuDNN from NVIDIA's wheels, where they lie beside ONNX Runtime; it says on stdout what it misses."""
    with contextlib.redirect_stdout(sys.stderr):
        onnxruntime.preload_dlls()


def _open_session(path: Path, *, graphs: bool) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # It reports every kernel that cuDNN does not have as an error, and then takes another.
    options.log_severity_level = FATAL_ONLY
    # A node that the GPU does not run is an error, not a silent detour over the CPU.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # fp32 means fp32: TF32 keeps 10 bits of the 23.
    provider = {"use_tf32": "0", "enable_cuda_graph": str(int(graphs))}
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[(PROVIDER, provider)], enable_fallback=0)
    except Exception as error:  # as where it runs
        raise cannot_load("ONNX Runtime on CUDA", path, error) from error
    if PROVIDER not in session.get_providers():
        raise UsageError(
            "ONNX Runtime fell back to the CPU: its CUDA provider finds no GPU, or libraries of another CUDA"
        )
    return session
