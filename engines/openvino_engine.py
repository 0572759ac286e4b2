"""OpenVINO, the CPU's native engine."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import openvino
from numpy.typing import NDArray

from ..model.errors import UsageError
from .base import EngineBase, Tensors, TensorSpec, check_feeds
from .load_errors import cannot_load, cannot_run

#: What OpenVINO calls the arithmetic; it computes in bf16 where the CPU can unless told otherwise.
HINTS = {"fp32": "f32", "bf16": "bf16"}


@cache
def _core() -> openvino.Core:
    """One for the process: where the last one goes, the CPU plugin frees the signal stack that it gave a thread, and
    the next signal that Python handles there ends the process.
    """
    return openvino.Core()


class OpenVinoEngine(EngineBase):
    """An ONNX file compiled by OpenVINO for this CPU, for one stream.

    Args:
        path: the ONNX file.
        precision: the arithmetic, float32 or bfloat16.
        threads: threads of the stream; None takes what the process may use.

    Raises:
        UsageError: the file cannot be compiled, or this CPU does not compute in the precision that was asked for.
    """

    def __init__(
        self,
        path: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        threads: int | None = None,
    ) -> None:
        super().__init__(inputs, outputs, max_batch)
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        core = _core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise UsageError("this CPU has no bfloat16 arithmetic: choose --precision fp32")
        try:
            compiled = core.compile_model(path, "CPU", options)
        except (RuntimeError, MemoryError) as error:
            raise cannot_load("OpenVINO", path, error) from error
        self._request = compiled.create_infer_request()

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        batch = check_feeds(feeds, self.inputs, self.max_batch)
        try:
            arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}
            self._request.infer(arrays, share_inputs=True, share_outputs=True)
            # The request reuses its buffers, so the caller gets a copy, and one is enough.
            return {spec.name: self._request.get_tensor(spec.name).data.copy() for spec in self.outputs}
        except (RuntimeError, MemoryError) as error:
            raise cannot_run("OpenVINO", batch, error) from error
