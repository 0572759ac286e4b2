"""The gated ensemble in Triton's Python backend: lesions are segmented only in slices that are called infected.

`coronanet repository --triage` copies this file into the model's version folder as ``model.py``. It asks the ensemble
twice where lesions are asked for: all slices for the gate, and for what is not gated; then the infected ones for the
rest. The others' masks are 0. It needs nothing but numpy, so that it runs in NVIDIA's container as it stands.
"""

import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # only exists inside Triton


class EnsembleError(Exception):
    """What the ensemble answered in place of tensors, which goes to the client as it is."""

    def __init__(self, reason: Any) -> None:
        super().__init__(reason.message())
        self.reason = reason


class TritonPythonModel:
    """What Triton's Python backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"])["parameters"]
        told = {name: value["string_value"] for name, value in parameters.items()}
        self.ensemble = told["ensemble"]
        self.gate = told["gate"]
        self.gated = told["gated"].split(",")
        self.threshold = float(told["threshold"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
        wanted = list(request.requested_output_names())
        gated = [name for name in wanted if name in self.gated]
        plain = [name for name in wanted if name not in gated]
        try:
            answer = self._ask(image, list({*plain, self.gate}) if gated else plain)
            if request.is_cancelled():
                cancelled = pb_utils.TritonError("the client cancelled it", pb_utils.TritonError.CANCELLED)
                return pb_utils.InferenceResponse(error=cancelled)
            if gated:
                answer.update((name, np.zeros(image.shape, np.uint8)) for name in gated)
                infected = ~(answer[self.gate][:, 0] < self.threshold)  # also where it is no number: nothing is missed
                if infected.any():
                    for name, masks in self._ask(image[infected], gated).items():
                        answer[name][infected] = masks
        except EnsembleError as error:
            return pb_utils.InferenceResponse(error=error.reason)
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor(name, answer[name]) for name in wanted])

    def _ask(self, image: Any, outputs: list[str]) -> dict[str, Any]:
        response = pb_utils.InferenceRequest(
            model_name=self.ensemble,
            requested_output_names=outputs,
            inputs=[pb_utils.Tensor("image", np.ascontiguousarray(image))],
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        ).exec()
        if response.has_error():
            raise EnsembleError(response.error())
        return {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
