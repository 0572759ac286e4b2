"""A model on a Triton server, over gRPC: remote, but an engine like any other."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import grpc
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2_grpc

from ..model.errors import UsageError
from ..model.tasks import ENSEMBLE
from .base import EngineBase, Tensors
from .retry import Attempts, Retry
from .triton_connection import Connection, as_connection
from .triton_wire import ServedModel, ServedStep, can_pass, failure, message

TIMEOUT_S = 30.0


class TritonEngine(EngineBase):
    """A model of a running Triton server; ready means that the server has it loaded.

    Args:
        server: ``HOST:PORT`` of the server's gRPC endpoint, or a connection with TLS or keys.
        model: the model's name.
        timeout_s: deadline of every request, all attempts together, in seconds.
        outputs: the outputs to ask for; Triton does not run what only the others need. None asks for all.
        retry: how to ask again where the server is away or full or a model's process has died; None never does. A
            server that does not answer at the opening is an error at once.
        concurrency: how many requests ``infer_each`` has under way.

    Raises:
        UsageError: the address is malformed, or the server has no such model or output; later, it refuses a request.
        UnansweredError: nothing answers there, or not in time.
    """

    def __init__(
        self,
        server: str | Connection,
        *,
        model: str = ENSEMBLE,
        timeout_s: float = TIMEOUT_S,
        outputs: Sequence[str] | None = None,
        retry: Retry | None = None,
        concurrency: int = 1,
    ) -> None:
        self._connection = as_connection(server)
        self._timeout_s, self._retry, self._concurrency = timeout_s, retry, concurrency
        self._channel = self._connection.channel()
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._model_infer, self._model_config = stub.ModelInfer, stub.ModelConfig
        options = {"timeout": timeout_s, "metadata": self._connection.metadata}
        try:
            metadata = stub.ModelMetadata(message("ModelMetadataRequest")(name=model), **options)
            config = self._model_config(message("ModelConfigRequest")(name=model), **options).config
            self._model = ServedModel.of(metadata, config, outputs, self.address)
        except grpc.RpcError as error:
            self._channel.close()
            raise failure(error, self._connection, model, timeout_s) from None
        except UsageError:
            self._channel.close()
            raise
        super().__init__(self._model.inputs, self._model.outputs, self._model.max_batch)

    @property
    def address(self) -> str:
        return self._connection.address

    @property
    def steps(self) -> tuple[ServedStep, ...]:
        """The models that an ensemble chains; empty for any other model."""
        return self._model.steps

    def parameters_of(self, model: str) -> dict[str, str]:
        """The parameters in the configuration of any model of the same server.

        Raises:
            UsageError: the server has no such model, or does not answer.
        """
        try:
            answer = self._model_config(
                message("ModelConfigRequest")(name=model), timeout=self._timeout_s, metadata=self._connection.metadata
            )
        except grpc.RpcError as error:
            raise failure(error, self._connection, model, self._timeout_s) from None
        return {name: value.string_value for name, value in answer.config.parameters.items()}

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        return self._ask(feeds, self._model_infer, time.sleep)

    def infer_each(self, feeds: Iterable[Tensors]) -> Generator[dict[str, NDArray[Any]]]:
        """As ``infer`` for each, in order, with ``concurrency`` requests under way.

        An iteration that ends early, by an error or by ``close()``, cancels what is under way: no later step of it
        starts.
        """
        flight = _Flight(self._model_infer)
        waiting: deque[Future[dict[str, NDArray[Any]]]] = deque()
        with ThreadPoolExecutor(self._concurrency, "triton") as pool:
            try:
                for each in feeds:
                    waiting.append(pool.submit(self._ask, each, flight.send, flight.pause))
                    # One more than are under way, so that the server does not wait for whoever takes the answers.
                    if len(waiting) > self._concurrency:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                flight.cancel()
                pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        self._channel.close()

    def _ask(
        self, feeds: Tensors, send: Callable[..., Any], pause: Callable[[float], object]
    ) -> dict[str, NDArray[Any]]:
        request = self._model.request(feeds)
        attempts = Attempts(self._timeout_s, self._retry)
        while True:
            try:
                response = send(request, timeout=attempts.left_s, metadata=self._connection.metadata)
                return self._model.answer(response, self.address)
            except grpc.RpcError as error:
                wait_s = attempts.next_pause_s() if can_pass(error) else None
                if wait_s is None:
                    raise failure(error, self._connection, self._model.name, self._timeout_s, attempts.made) from None
            pause(wait_s)


class _Flight:
    """The requests of one iteration, which can be cancelled together."""

    def __init__(self, model_infer: Any) -> None:
        self._model_infer = model_infer
        self._calls: set[Any] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def send(self, request: Any, **options: Any) -> Any:
        with self._lock:
            if self._ended.is_set():
                raise CancelledError
            call = self._model_infer.future(request, **options)
            self._calls.add(call)
        try:
            return call.result()
        except grpc.FutureCancelledError:
            raise CancelledError from None
        finally:
            with self._lock:
                self._calls.discard(call)

    def pause(self, seconds: float) -> None:
        self._ended.wait(seconds)

    def cancel(self) -> None:
        with self._lock:
            self._ended.set()
            calls = tuple(self._calls)
        for call in calls:
            call.cancel()
