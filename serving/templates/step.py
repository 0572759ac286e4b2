"""A step of the ensemble in Triton's Python backend: opens the engine that ``step.json`` names and runs it.

``coronanet repository`` copies this file into every model's version folder as ``model.py``.
"""

from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # only exists inside Triton
from coronanet.engines.load_errors import CannotRunError
from coronanet.model.errors import CoronanetError
from coronanet.model.tasks import TASKS
from coronanet.serving.step import open_step
from coronanet.serving.time_slice import ask_for_long_slice


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        task = TASKS.get(args["model_name"])
        if task and task.is_segmentation:
            ask_for_long_slice()  # before the engine starts threads
        try:
            self.engine = open_step(folder)
        except CoronanetError as error:
            raise pb_utils.TritonModelException(str(error)) from None

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        self.engine.close()

    def _answer(self, request: Any) -> Any:
        feeds = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            answer = self.engine.infer(feeds)
        except CoronanetError as error:
            ours = isinstance(error, CannotRunError)
            code = pb_utils.TritonError.INTERNAL if ours else pb_utils.TritonError.INVALID_ARG
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
        wanted = set(request.requested_output_names())
        tensors = [pb_utils.Tensor(name, array) for name, array in answer.items() if name in wanted]
        return pb_utils.InferenceResponse(output_tensors=tensors)
