"""ONNX Runtime on the CPU."""

from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from .base import EngineBase, Tensors, TensorSpec, check_feeds
from .load_errors import cannot_load, cannot_run

ERROR_ONLY = 3


@cache
def _share_memory() -> None:
    """One arena for all sessions of the process, so that networks that run in turn use the same memory; with one each,
    all of them keep the most that they ever needed: 1.4 GB for the ensemble in two streams instead of 0.6.
    """
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)


class OnnxRuntimeEngine(EngineBase):
    """An ONNX file in an ONNX Runtime session.

    Args:
        path: the ONNX file.
        threads: threads inside an operator; None leaves the choice to ONNX Runtime.

    Raises:
        UsageError: the file cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int,
        *,
        threads: int | None = None,
    ) -> None:
        super().__init__(inputs, outputs, max_batch)
        _share_memory()
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.use_env_allocators", "1")
        options.log_severity_level = ERROR_ONLY
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises a dozen types of its own, all Exception
            raise cannot_load("ONNX Runtime", path, error) from error
        self._names = [spec.name for spec in outputs]

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        batch = check_feeds(feeds, self.inputs, self.max_batch)
        # Typed as anything that ONNX can carry; the graphs of a bundle have plain tensors only.
        try:
            answer: Any = self._session.run(self._names, dict(feeds))
        except Exception as error:  # as when it is opened
            raise cannot_run("ONNX Runtime", batch, error) from error
        return dict(zip(self._names, answer, strict=True))
