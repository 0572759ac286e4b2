"""The Python clients against a server of the test's own that fails as it is told to; both keep the same promises."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from concurrent import futures
from contextlib import aclosing
from typing import Any, Literal

import grpc
import numpy as np
import pytest
from coronanet.engines.triton_connection import OPTIONS
from coronanet.engines.triton_wire import message
from coronanet.serving.client import Answer, AsyncClient, Client, Connection, Retry, UnansweredError, UsageError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2_grpc

UNHEALTHY = "in ensemble 'coronanet', Stub process 'lung_segmentation_0_0' is not healthy."
#: The others of Triton's Python backend for the same, from its `python_be.cc`.
UNHEALTHY_TOO = ("Stub process is not healthy.", "Failed to obtain the health mutex.")
RETRY = Retry(first_s=0.02, longest_s=0.1)


class _Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """An ensemble with `lung_mask` alone: 1 where the image is positive.

    It fails as ``failures`` says, the next first, and waits as many milliseconds as the first pixel says.
    """

    def __init__(self) -> None:
        self.failures: list[tuple[grpc.StatusCode, str]] = []
        self.arrived: list[int] = []
        self.metadata: list[dict[str, str]] = []
        self.cancelled = threading.Event()
        self.under_way = self.most = 0
        self._lock = threading.Lock()

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        tensor = message("ModelMetadataResponse.TensorMetadata")
        return message("ModelMetadataResponse")(
            name=request.name,
            inputs=[tensor(name="image", datatype="INT16", shape=[-1, -1, -1])],
            outputs=[tensor(name="lung_mask", datatype="UINT8", shape=[-1, -1, -1])],
        )

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        answer = message("ModelConfigResponse")()
        answer.config.max_batch_size = 8
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        context.add_callback(lambda: None if context.code() == grpc.StatusCode.OK else self.cancelled.set())
        shape = list(request.inputs[0].shape)
        image = np.frombuffer(request.raw_input_contents[0], np.int16).reshape(shape)
        first = int(image.flat[0])
        with self._lock:
            self.arrived.append(first)
            self.metadata.append(dict(context.invocation_metadata()))
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            failure = self.failures.pop(0) if self.failures else None
        time.sleep(max(0, first) / 1e3)
        with self._lock:
            self.under_way -= 1
        if failure is not None:
            context.abort(*failure)
        answer = message("ModelInferResponse")(model_name=request.model_name)
        answer.outputs.add(name="lung_mask", datatype="UINT8", shape=shape)
        answer.raw_output_contents.append((image > 0).astype(np.uint8).tobytes())
        return answer


@pytest.fixture
def server() -> _Server:
    return _Server()


def _start(server: _Server, address: str = "127.0.0.1:0") -> tuple[Any, str]:
    started = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(server, started)
    port = started.add_insecure_port(address)
    started.start()
    return started, f"127.0.0.1:{port}"


@pytest.fixture
def address(server: _Server) -> Iterator[str]:
    started, address = _start(server)
    yield address
    started.stop(None).wait()


Kind = Literal["sync", "async"]
Ask = Callable[..., list[Answer]]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Streams slices through one of the two clients: ``ask(address, slices, take=…, **options)``."""
    kind: Kind = request.param

    def sync(address: str, slices: Any, *, take: int | None = None, **options: Any) -> list[Answer]:
        answers: list[Answer] = []
        with Client(address, **options) as client:
            stream = client.stream(slices)
            for answer in stream:
                answers.append(answer)
                if len(answers) == take:
                    break
            stream.close()
        return answers

    async def run(address: str, slices: Any, *, take: int | None = None, **options: Any) -> list[Answer]:
        answers: list[Answer] = []
        async with AsyncClient(address, **options) as client, aclosing(client.stream(slices)) as stream:
            async for answer in stream:
                answers.append(answer)
                if len(answers) == take:
                    break
        return answers

    return sync if kind == "sync" else lambda *given, **options: asyncio.run(run(*given, **options))


def _slices(*values: int) -> list[NDArray[np.int16]]:
    return [np.full((2, 3), value, np.int16) for value in values]


def test_answers_come_in_order_with_bounded_concurrency(ask: Ask, address: str, server: _Server) -> None:
    values = [60, 1, 40, -1, 20, 30, 2, 50]
    answers = ask(address, iter(_slices(*values)), concurrency=3)
    assert [int(answer["lung_mask"][0, 0]) for answer in answers] == [int(value > 0) for value in values]
    assert answers[0]["lung_mask"].shape == (2, 3)
    assert server.most == 3
    assert sorted(server.arrived) == sorted(values)


def test_a_study_comes_back_whole(address: str) -> None:
    image = np.stack(_slices(-1, 3, -5, 4, 5))
    with Client(address) as client:
        np.testing.assert_array_equal(client.predict(image)["lung_mask"], image > 0)

    async def predict() -> Answer:
        async with AsyncClient(address) as client:
            return await client.predict(image)

    np.testing.assert_array_equal(asyncio.run(predict())["lung_mask"], image > 0)


def test_slices_may_come_from_an_asynchronous_source(address: str) -> None:
    async def source() -> AsyncIterator[NDArray[np.int16]]:
        for slice_ in _slices(1, -1):
            await asyncio.sleep(0.01)
            yield slice_

    async def run() -> list[int]:
        async with AsyncClient(address) as client:
            return [int(answer["lung_mask"][0, 0]) async for answer in client.stream(source())]

    assert asyncio.run(run()) == [1, 0]


def test_an_early_end_closes_an_asynchronous_source(address: str) -> None:
    closed = False

    async def source() -> AsyncGenerator[NDArray[np.int16]]:
        nonlocal closed
        try:
            while True:
                yield _slices(1)[0]
        finally:
            await asyncio.sleep(0)  # such as a file or a connection that is closed
            closed = True

    async def run() -> None:
        slices = source()
        async with AsyncClient(address) as client, aclosing(client.stream(slices)) as stream:
            await anext(stream)
        assert closed

    asyncio.run(run())


def test_what_can_pass_is_asked_again(ask: Ask, address: str, server: _Server) -> None:
    server.failures = [
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size"),
        (grpc.StatusCode.INTERNAL, UNHEALTHY),
        *((grpc.StatusCode.INTERNAL, words) for words in UNHEALTHY_TOO),
        (grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'lung_segmentation' has no available versions"),
    ]
    answers = ask(address, _slices(1, 2), retry=RETRY)
    assert [int(answer["lung_mask"][0, 0]) for answer in answers] == [1, 1]
    assert len(server.arrived) == 7


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape for input 'image'"),
        (grpc.StatusCode.INTERNAL, "a tensor is larger than this model takes"),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'coronanet' is not found"),
    ],
)
def test_a_wrong_request_is_never_repeated(
    ask: Ask, address: str, server: _Server, code: grpc.StatusCode, words: str
) -> None:
    server.failures = [(code, words)]
    with pytest.raises(UsageError, match=words) as refused:
        ask(address, _slices(7), retry=RETRY)
    assert not isinstance(refused.value, UnansweredError)
    assert server.arrived == [7]


def test_retries_end_at_the_deadline(ask: Ask, address: str, server: _Server) -> None:
    server.failures = [(grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size")] * 1000
    start = time.monotonic()
    with pytest.raises(
        UnansweredError, match=r"refused coronanet: Exceeds maximum queue size \(tried \d+ times in 0\.8 s\)"
    ):
        ask(address, _slices(0), retry=RETRY, timeout_s=0.8)
    assert time.monotonic() - start < 3
    assert len(server.arrived) > 3


def test_without_retries_the_first_failure_counts(ask: Ask, address: str, server: _Server) -> None:
    server.failures = [(grpc.StatusCode.INTERNAL, UNHEALTHY)]
    with pytest.raises(UnansweredError, match="is not healthy"):
        ask(address, _slices(0), retry=None)
    assert len(server.arrived) == 1


def test_a_slow_answer_meets_the_deadline(ask: Ask, address: str) -> None:
    with pytest.raises(UnansweredError, match=r"did not answer within 0\.3 s"):
        ask(address, _slices(2000), timeout_s=0.3)


def test_a_server_that_restarts_is_found_again(ask: Ask, server: _Server) -> None:
    started, address = _start(server)
    again: list[Any] = []

    def slices() -> Iterator[NDArray[np.int16]]:
        yield from _slices(1)
        started.stop(None).wait()
        timer.start()
        yield from _slices(2, 3)

    timer = threading.Timer(1.5, lambda: again.append(_start(server, address)[0]))
    try:
        assert len(ask(address, slices(), concurrency=1, timeout_s=20)) == 3
    finally:
        timer.join()
        for each in again:
            each.stop(None).wait()


def test_an_end_before_the_last_slice_cancels_what_is_under_way(ask: Ask, address: str, server: _Server) -> None:
    start = time.monotonic()
    assert len(ask(address, _slices(1, 3000, 3000, 3000, 3000, 3000), take=1, concurrency=2)) == 1
    assert server.cancelled.wait(5)
    assert time.monotonic() - start < 2.5
    assert len(server.arrived) < 6


def test_a_failure_keeps_the_answers_before_it_and_stops_the_rest(address: str, server: _Server) -> None:
    def slices() -> Iterator[NDArray[np.int16]]:
        yield from _slices(1, 2)
        yield np.zeros((2, 3), np.float32)  # pyright: ignore[reportReturnType]
        yield from _slices(*range(3, 40))

    given: list[Answer] = []
    with Client(address, concurrency=1) as client, pytest.raises(UsageError, match="got dtype float32"):
        given.extend(client.stream(slices()))
    assert len(given) <= 2
    assert len(server.arrived) < 10


def test_what_does_not_fit_never_leaves(ask: Ask, address: str, server: _Server) -> None:
    for slice_, said in (
        (np.zeros((2, 3), np.uint8), r"got dtype uint8: convert it with \.astype\(np\.int16\)"),
        (np.zeros((1, 2, 3), np.int16), r"got shape \[1, 1, 2, 3\]"),
        (np.zeros((0, 3), np.int16), r"got shape \[1, 0, 3\]"),
        (np.zeros((8192, 4097), np.int16), "a request of at most 64 MiB, got 64 MiB"),
    ):
        with pytest.raises(UsageError, match=said):
            ask(address, [slice_])
    with Client(address) as client, pytest.raises(UsageError, match=r"an image int16 \[Z, H, W\] in HU, got shape \[2"):
        client.predict(np.zeros((2, 3), np.int16))
    assert server.arrived == []


def test_no_server_is_said_at_once(ask: Ask, server: _Server) -> None:
    started, address = _start(server)
    started.stop(None).wait()
    start = time.monotonic()
    with pytest.raises(UnansweredError, match=f"no Triton server answers at {address}"):
        ask(address, _slices(0))
    assert time.monotonic() - start < 10


def test_the_keys_go_with_every_request_and_are_never_shown(ask: Ask, address: str, server: _Server) -> None:
    connection = Connection(address, keys=(("infer-key", "s3cret=="),))
    ask(connection, _slices(0))
    assert server.metadata[0]["triton-grpc-protocol-infer-key"] == "s3cret=="
    assert "s3cret" not in repr(connection)


def test_a_name_with_several_addresses_is_several_servers(server: _Server) -> None:
    other = _Server()
    started = [_start(server), _start(other)]
    target = "ipv4:" + ",".join(address for _, address in started)
    try:
        with grpc.insecure_channel(target, options=OPTIONS) as channel:
            stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = message("ModelInferRequest")(model_name="coronanet")
            request.inputs.add(name="image", datatype="INT16", shape=[1, 1, 1])
            request.raw_input_contents.append(np.zeros(1, np.int16).tobytes())
            for _ in range(20):
                stub.ModelInfer(request, timeout=5)
        assert len(server.arrived) + len(other.arrived) == 20
        assert min(len(server.arrived), len(other.arrived)) > 5
    finally:
        for each, _ in started:
            each.stop(None).wait()


def test_an_asynchronous_client_that_was_not_entered_says_so() -> None:
    async def run() -> None:
        await AsyncClient("127.0.0.1:1").predict(np.stack(_slices(1)))

    with pytest.raises(UsageError, match="async with AsyncClient"):
        asyncio.run(run())


def test_it_needs_no_torch() -> None:
    code = "import sys, coronanet.serving.client; assert not {'torch', 'onnx', 'onnxruntime'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
