"""`bench waterfall`: one request to a running server taken apart, beside the same chain in this process."""

import time
from typing import Any

from numpy.typing import NDArray
from tritonclient.grpc import InferRequestedOutput

from ..engines.base import Tensors, check_feeds
from ..engines.triton_engine import TritonEngine
from .waterfall import ClientSpan


class Probe(TritonEngine):
    """A served model that notes when each request passed from hand to hand in this process."""

    def __init__(self, address: str, *, model: str, timeout_s: float, name: str) -> None:
        super().__init__(address, model=model, timeout_s=timeout_s)
        self._name = name
        self.spans: list[ClientSpan] = []

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        start_ns = time.perf_counter_ns()
        check_feeds(feeds, self.inputs, self.max_batch)
        inputs = [_input(name, array) for name, array in feeds.items()]
        wanted = [InferRequestedOutput(spec.name) for spec in self.outputs]
        request_id = f"{self._name}-{len(self.spans)}"
        sent_ns = time.perf_counter_ns()
        result = self._call(
            lambda: self._client.infer(
                self._model, inputs, request_id=request_id, outputs=wanted, client_timeout=self._timeout_s
            )
        )
        received_ns = time.perf_counter_ns()
        answer = {spec.name: self._output(spec, result.as_numpy(spec.name)) for spec in self.outputs}
        self.spans.append(ClientSpan(request_id, start_ns, sent_ns, received_ns, time.perf_counter_ns()))
        return answer
