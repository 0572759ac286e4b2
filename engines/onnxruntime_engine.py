"""ONNX Runtime, on the CPU or through CUDA."""

from pathlib import Path
from typing import Any, Literal

import onnxruntime
from numpy.typing import NDArray

from ..model.errors import UsageError
from .base import EngineBase, Tensors, TensorSpec, check_feeds

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
ERROR_ONLY = 3


class OnnxRuntimeEngine(EngineBase):
    """An ONNX file in an ONNX Runtime session.

    Args:
        path: the ONNX file.
        threads: threads inside an operator; None leaves the choice to ONNX Runtime.

    Raises:
        UsageError: the file cannot be loaded, or the device that was asked for is not the one that was opened.
    """

    def __init__(
        self,
        path: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int,
        *,
        threads: int | None = None,
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        super().__init__(inputs, outputs, max_batch)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERROR_ONLY
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if threads is not None:
            options.intra_op_num_threads = threads
        provider = PROVIDERS[device]
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=[provider])
        except Exception as error:  # onnxruntime raises a dozen types of its own, all Exception
            raise UsageError(f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}") from error
        # Without a usable GPU the session falls back to the CPU and says nothing.
        if (opened := self._session.get_providers()[0]) != provider:
            raise UsageError(f"asked ONNX Runtime for {provider}, it opened {opened}: `coronanet doctor` says why")
        self._names = [spec.name for spec in outputs]

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(feeds, self.inputs, self.max_batch)
        # Typed as anything that ONNX can carry; the graphs of a bundle have plain tensors only.
        answer: Any = self._session.run(self._names, dict(feeds))
        return dict(zip(self._names, answer, strict=True))
