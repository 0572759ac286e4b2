"""A model on a Triton server, over gRPC: remote, but an engine like any other."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from ..model.errors import UsageError
from .base import EngineBase, Tensors, TensorSpec, check_feeds

ENSEMBLE = "coronanet"
TIMEOUT_S = 30.0
#: Triton itself takes requests of any size; 32 slices of 1024 x 1024 are as many as one call needs.
MAX_REQUEST_BYTES = 64 * 2**20
CHANNEL: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # Images go to the address that was given, never through a proxy from the environment.
    ("grpc.enable_http_proxy", 0),
)
DTYPES = {"INT16": "int16", "FP32": "float32", "UINT8": "uint8"}
TRITON_TYPES = {dtype: name for name, dtype in DTYPES.items()}
ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")


class TritonEngine(EngineBase):
    """A model of a running Triton server; ready means that the server has it loaded.

    Args:
        address: ``HOST:PORT`` of the server's gRPC endpoint.
        model: the model's name.
        timeout_s: deadline of every call, in seconds.
        outputs: the outputs to ask for; Triton does not run what only the others need. None asks for all.

    Raises:
        UsageError: the address is malformed, nothing answers there, or the server has no such model or output.
    """

    def __init__(
        self,
        address: str,
        *,
        model: str = ENSEMBLE,
        timeout_s: float = TIMEOUT_S,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._address, self._model, self._timeout_s = check_address(address), model, timeout_s
        self._client = InferenceServerClient(address, channel_args=list(CHANNEL))
        try:
            metadata = self._call(lambda: self._client.get_model_metadata(model, client_timeout=timeout_s))
            config = self._call(lambda: self._client.get_model_config(model, client_timeout=timeout_s)).config
            if config.max_batch_size < 1:
                raise UsageError(f"the model {model} at {address} does not batch: expected max_batch_size of 1 or more")
            available = tuple(self._spec(tensor) for tensor in metadata.outputs)
            super().__init__(
                tuple(self._spec(tensor) for tensor in metadata.inputs),
                _select(available, outputs, model),
                config.max_batch_size,
            )
        except UsageError:
            self._client.close()
            raise

    @property
    def address(self) -> str:
        return self._address

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(feeds, self.inputs, self.max_batch)
        size = sum(array.nbytes for array in feeds.values())
        if size > MAX_REQUEST_BYTES:
            raise UsageError(
                f"expected a request of at most {MAX_REQUEST_BYTES / 2**20:.0f} MiB, got {size / 2**20:.0f} MiB: "
                "send fewer slices at a time"
            )
        inputs = [_input(name, array) for name, array in feeds.items()]
        wanted = [InferRequestedOutput(spec.name) for spec in self.outputs]
        result = self._call(
            lambda: self._client.infer(self._model, inputs, outputs=wanted, client_timeout=self._timeout_s)
        )
        return {spec.name: self._output(spec, result.as_numpy(spec.name)) for spec in self.outputs}

    def close(self) -> None:
        self._client.close()

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except InferenceServerException as error:
            raise UsageError(self._explain(error)) from None

    def _explain(self, error: InferenceServerException) -> str:
        message = " ".join((error.message() or "").split())
        status = (error.status() or "").removeprefix("StatusCode.")
        if status == "UNAVAILABLE" and "model" not in message:  # a server that is up says so of a model
            if "http1" in message or ("failed to connect" in message and "Socket closed" in message):
                return f"what answers at {self._address} is not gRPC: give the gRPC port, 8001 unless it was moved"
            return f"no Triton server answers at {self._address}: start one with `coronanet serve`"
        if status == "DEADLINE_EXCEEDED":
            return f"the Triton server at {self._address} did not answer within {self._timeout_s:g} s"
        return f"the Triton server at {self._address} refused {self._model}: {message}"

    def _spec(self, tensor: Any) -> TensorSpec:
        if tensor.datatype not in DTYPES:
            raise UsageError(
                f"{self._model} at {self._address} has {tensor.name} of type {tensor.datatype}: "
                f"expected one of {', '.join(DTYPES)}"
            )
        return TensorSpec(tensor.name, DTYPES[tensor.datatype], tuple(tensor.shape))

    def _output(self, spec: TensorSpec, array: NDArray[Any] | None) -> NDArray[Any]:
        if array is None:
            raise UsageError(f"the Triton server at {self._address} left {spec.name} out of its answer")
        # What arrived is a read-only view of the message; the caller owns what it gets.
        return array.copy()


def check_address(address: str) -> str:
    """``address`` if it reads ``HOST:PORT``.

    Raises:
        UsageError: it does not.
    """
    match = ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 2**16:
        raise UsageError(f"'{address}' is not the address of a server: expected HOST:PORT, such as 127.0.0.1:8001")
    return address


def _select(available: tuple[TensorSpec, ...], names: Sequence[str] | None, model: str) -> tuple[TensorSpec, ...]:
    if names is None:
        return available
    by_name = {spec.name: spec for spec in available}
    if unknown := [name for name in names if name not in by_name]:
        raise UsageError(f"{model} has no output '{unknown[0]}': expected one of {', '.join(by_name)}")
    return tuple(by_name[name] for name in names)


def _input(name: str, array: NDArray[Any]) -> InferInput:
    tensor = InferInput(name, list(array.shape), TRITON_TYPES[str(array.dtype)])
    tensor.set_data_from_numpy(array)
    return tensor
