"""The served ensemble for Python programs: slices in, decisions out, through restarts and crowds.

    with Client("127.0.0.1:8001") as client:
        answer = client.predict(image)                      # int16 HU [Z, H, W], as many slices as there are
        for slice_answer in client.stream(slices): ...      # each int16 HU [H, W], in order, several under way

``AsyncClient`` is the same for asyncio. Both cut studies into requests that the server takes, set a deadline on every
one, ask again within it while the server is away or full or brings a process back, and never repeat a wrong request.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2_grpc

from ..engines.base import Tensors
from ..engines.retry import Attempts, Retry
from ..engines.triton_connection import Connection, Tls, as_connection
from ..engines.triton_engine import TIMEOUT_S, TritonEngine
from ..engines.triton_wire import ServedModel, UnansweredError, can_pass, failure, message
from ..model.errors import UsageError
from ..model.tasks import ENSEMBLE

__all__ = ["AsyncClient", "Client", "Connection", "Retry", "Tls", "UnansweredError", "UsageError"]

#: Requests under way: enough that a server with two processes a network never waits for the client.
CONCURRENCY = 4
RETRY = Retry()

#: Decisions by the names of ``model.tasks``: ``infected_probability`` float32; ``lesion_mask``, ``lesion_types`` and
#: ``lung_mask`` uint8 on the grid of the image.
Answer = dict[str, NDArray[Any]]
Slice = NDArray[np.int16]


class Client(TritonEngine):
    """The ensemble ``coronanet`` on a Triton server; used by one thread at a time.

    Args:
        server: ``HOST:PORT`` of gRPC, or a ``Connection`` with TLS or keys.
        outputs: the decisions to ask for, by name; the server runs nothing that only the others need. None: all.
        timeout_s: deadline of every request, all attempts together, in seconds.
        retry: the pauses between attempts; None asks once.
        concurrency: requests under way in ``stream`` and ``predict``.

    Raises:
        UsageError: the address is malformed, or the server has no such ensemble or output.
        UnansweredError: nothing answers there.
    """

    def __init__(
        self,
        server: str | Connection,
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: Retry | None = RETRY,
        concurrency: int = CONCURRENCY,
    ) -> None:
        super().__init__(server, outputs=outputs, timeout_s=timeout_s, retry=retry, concurrency=concurrency)

    def predict(self, image: NDArray[np.int16]) -> Answer:
        """The decisions on every slice of ``image``, int16 HU ``[Z, H, W]``: ``[Z, 1]`` and masks ``[Z, H, W]``.

        Raises:
            UsageError: the image is of another dtype or rank, or the server refuses it.
            UnansweredError: a request had no answer at its deadline.
        """
        return _stack(list(self.stream(_slices_of(image))))

    def stream(self, slices: Iterable[Slice]) -> Generator[Answer]:
        """The decisions on each slice, int16 HU ``[H, W]``, in order and as they come: ``[1]`` and masks ``[H, W]``.

        ``slices`` is read as far ahead as requests are under way. Ending early, by ``close()``, an error or leaving the
        loop, cancels what is under way: no later step of it starts.

        Raises:
            UsageError, UnansweredError: as ``predict``; the answers before it were given.
        """
        answers = self.infer_each(_feeds(each) for each in slices)
        try:
            for answer in answers:
                yield _first(answer)
        finally:
            answers.close()


class AsyncClient:
    """``Client`` for asyncio: ``async with AsyncClient(...) as client``, which connects. Arguments as there."""

    def __init__(
        self,
        server: str | Connection,
        *,
        outputs: Sequence[str] | None = None,
        timeout_s: float = TIMEOUT_S,
        retry: Retry | None = RETRY,
        concurrency: int = CONCURRENCY,
    ) -> None:
        self._connection = as_connection(server)
        self._wanted, self._timeout_s, self._retry, self._concurrency = outputs, timeout_s, retry, concurrency
        self._channel: Any = None
        self._stub: Any = None
        self._model: ServedModel | None = None

    async def predict(self, image: NDArray[np.int16]) -> Answer:
        """As ``Client.predict``."""
        return _stack([answer async for answer in self.stream(_slices_of(image))])

    async def stream(self, slices: Iterable[Slice] | AsyncIterable[Slice]) -> AsyncGenerator[Answer]:
        """As ``Client.stream``; a loop that may end early is best written under ``contextlib.aclosing``.

        However it ends, an async generator of ``slices`` is closed.
        """
        waiting: deque[asyncio.Task[Answer]] = deque()
        gate = asyncio.Semaphore(self._concurrency)
        async with aclosing(_each(slices)) as source:
            try:
                async for each in source:
                    waiting.append(asyncio.create_task(self._ask(_feeds(each), gate)))
                    if len(waiting) > self._concurrency:
                        yield _first(await waiting.popleft())
                while waiting:
                    yield _first(await waiting.popleft())
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel = self._model = None

    async def __aenter__(self) -> Self:
        self._channel = self._connection.aio_channel()
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        options = {"timeout": self._timeout_s, "metadata": self._connection.metadata}
        try:
            metadata = await self._stub.ModelMetadata(message("ModelMetadataRequest")(name=ENSEMBLE), **options)
            config = await self._stub.ModelConfig(message("ModelConfigRequest")(name=ENSEMBLE), **options)
            self._model = ServedModel.of(metadata, config.config, self._wanted, self._connection.address)
        except grpc.RpcError as error:
            await self.close()
            raise failure(error, self._connection, ENSEMBLE, self._timeout_s) from None
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, feeds: Tensors, gate: asyncio.Semaphore) -> Answer:
        if self._model is None:
            raise UsageError("the client is not connected: use it within `async with AsyncClient(...) as client`")
        async with gate:
            request = self._model.request(feeds)
            attempts = Attempts(self._timeout_s, self._retry)
            while True:
                try:
                    response = await self._stub.ModelInfer(
                        request, timeout=attempts.left_s, metadata=self._connection.metadata
                    )
                    return self._model.answer(response, self._connection.address)
                except grpc.RpcError as error:
                    wait_s = attempts.next_pause_s() if can_pass(error) else None
                    if wait_s is None:
                        raise failure(error, self._connection, ENSEMBLE, self._timeout_s, attempts.made) from None
                await asyncio.sleep(wait_s)


def _slices_of(image: NDArray[np.int16]) -> NDArray[np.int16]:
    if image.ndim != 3 or 0 in image.shape:
        raise UsageError(f"expected an image int16 [Z, H, W] in HU, got shape {list(image.shape)}")
    return image


def _feeds(slice_: Slice) -> Tensors:
    return {"image": np.ascontiguousarray(slice_[None])}


def _first(answer: Answer) -> Answer:
    return {name: array[0] for name, array in answer.items()}


def _stack(answers: list[Answer]) -> Answer:
    return {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}


async def _each(slices: Iterable[Slice] | AsyncIterable[Slice]) -> AsyncGenerator[Slice]:
    if not isinstance(slices, AsyncIterable):
        for each in slices:
            yield each
        return
    source = aiter(slices)
    try:
        async for each in source:
            yield each
    finally:
        if isinstance(source, AsyncGenerator):
            await source.aclose()
