"""Questions to a running server whose failures are told apart: nobody there, no room, too late, an error, wrong."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from ..engines.base import Tensors
from ..engines.triton_wire import NO_CONNECTION

Kind = Literal["unreachable", "full", "late", "refused", "wrong"]
#: How Triton refuses what a queue has no room for, or what waited in one for too long.
FULL = ("Exceeds maximum queue size", "Request timeout expired")
CHANNEL: tuple[tuple[str, int], ...] = (
    ("grpc.enable_http_proxy", 0),
    # A server that was just restarted is asked at once, not after what gRPC waits for one that was not there.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
)


class ProbeError(Exception):
    """A question that got no right answer.

    Args:
        kind: nobody there (``unreachable``), a queue that is ``full``, ``late``, an error (``refused``), or a ``wrong``
            answer.
        reason: in one line.
    """

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(reason)
        self.kind: Kind = kind


class Probe:
    """A connection to the gRPC endpoint at ``address``; safe to use from several threads."""

    def __init__(self, address: str) -> None:
        self._client = InferenceServerClient(address, channel_args=list(CHANNEL))

    def ask(self, model: str, feeds: Tensors, outputs: Sequence[str], timeout_s: float) -> dict[str, NDArray[Any]]:
        """What ``model`` answers.

        Raises:
            ProbeError: it does not, within ``timeout_s`` seconds.
        """
        inputs = [_input(name, array) for name, array in feeds.items()]
        wanted = [InferRequestedOutput(name) for name in outputs]
        result: Any = _call(lambda: self._client.infer(model, inputs, outputs=wanted, client_timeout=timeout_s))
        answer = {name: result.as_numpy(name) for name in outputs}
        if missing := [name for name, array in answer.items() if array is None]:
            raise ProbeError("wrong", f"{missing[0]} is not in the answer of {model}")
        return answer

    def answered(self, timeout_s: float) -> dict[str, int]:
        """How many requests each model has answered since it was loaded.

        Those that failed do not count, since one that waited too long for a model that hangs is among them, nor those
        that the response cache answered.

        Raises:
            ProbeError: the server does not say, within ``timeout_s`` seconds.
        """
        statistics: Any = _call(lambda: self._client.get_inference_statistics(client_timeout=timeout_s))
        return {
            model.name: int(model.inference_stats.success.count - model.inference_stats.cache_hit.count)
            for model in statistics.model_stats
        }

    def close(self) -> None:
        self._client.close()


def _call(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except InferenceServerException as error:
        status = (error.status() or "").removeprefix("StatusCode.")
        reason = " ".join((error.message() or "").split()) or status
        raise ProbeError(_kind(status, reason), reason) from None


def _kind(status: str, reason: str) -> Kind:
    """What a failure means; Triton gives a full queue the status that gRPC has for a server that is away."""
    if any(words in reason for words in FULL):
        return "full"
    if status == "UNAVAILABLE" and any(words in reason for words in NO_CONNECTION):
        return "unreachable"
    return "late" if status == "DEADLINE_EXCEEDED" else "refused"


def _input(name: str, array: NDArray[Any]) -> InferInput:
    tensor = InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    tensor.set_data_from_numpy(np.ascontiguousarray(array))
    return tensor
