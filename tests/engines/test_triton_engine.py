"""The client engine against a small gRPC server of the test's own: what it asks, and how it says that it failed."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
from coronanet.engines import triton_wire
from coronanet.engines.triton_connection import check_address
from coronanet.engines.triton_engine import TritonEngine
from coronanet.engines.triton_wire import message
from coronanet.model.errors import UsageError
from tritonclient.grpc import service_pb2_grpc


class _Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server with one model `echo`: int16 `image` to uint8 `mask` and float32 `probability`."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.max_batch_size = 4
        self.datatype = "INT16"
        self.answers = True
        self.delay_s = 0.0

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        if request.name != "echo":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        tensor = message("ModelMetadataResponse.TensorMetadata")
        return message("ModelMetadataResponse")(
            name="echo",
            inputs=[tensor(name="image", datatype=self.datatype, shape=[-1, -1, -1])],
            outputs=[
                tensor(name="mask", datatype="UINT8", shape=[-1, -1, -1]),
                tensor(name="probability", datatype="FP32", shape=[-1, 1]),
            ],
        )

    def ModelConfig(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        answer = message("ModelConfigResponse")()
        answer.config.max_batch_size = self.max_batch_size
        return answer

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        self.requests.append(request)
        time.sleep(self.delay_s)
        shape = list(request.inputs[0].shape)
        image = np.frombuffer(request.raw_input_contents[0], np.int16).reshape(shape)
        if image.min() < 0:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no negative\npixels")
        values = {
            "mask": ("UINT8", shape, (image > 0).astype(np.uint8)),
            "probability": ("FP32", [shape[0], 1], np.full((shape[0], 1), 0.5, np.float32)),
        }
        answer = message("ModelInferResponse")(model_name="echo")
        for wanted in request.outputs if self.answers else []:
            datatype, size, array = values[wanted.name]
            answer.outputs.add(name=wanted.name, datatype=datatype, shape=size)
            answer.raw_output_contents.append(array.tobytes())
        return answer


@pytest.fixture
def servicer() -> _Server:
    return _Server()


@pytest.fixture
def address(servicer: _Server) -> Iterator[str]:
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def engine(address: str) -> Iterator[TritonEngine]:
    with TritonEngine(address, model="echo") as opened:
        yield opened


IMAGE = np.arange(2 * 3 * 5, dtype=np.int16).reshape(2, 3, 5)


def test_it_says_what_the_server_says(engine: TritonEngine) -> None:
    assert [str(spec) for spec in engine.inputs] == ["image int16 [?, ?, ?]"]
    assert [str(spec) for spec in engine.outputs] == ["mask uint8 [?, ?, ?]", "probability float32 [?, 1]"]
    assert engine.max_batch == 4


def test_what_it_returns_belongs_to_the_caller(engine: TritonEngine) -> None:
    answer = engine.infer({"image": IMAGE})
    np.testing.assert_array_equal(answer["mask"], IMAGE > 0)
    assert answer["probability"].shape == (2, 1)
    answer["mask"][:] = 7


def test_it_asks_only_for_the_outputs_it_was_opened_for(address: str, servicer: _Server) -> None:
    with TritonEngine(address, model="echo", outputs=["probability"]) as engine:
        assert engine.infer({"image": IMAGE}).keys() == {"probability"}
    assert [output.name for output in servicer.requests[0].outputs] == ["probability"]


def test_wrong_feeds_never_leave(engine: TritonEngine, servicer: _Server) -> None:
    for feeds, said in (
        ({"pixels": IMAGE}, r"expected the inputs \['image'\]"),
        ({"image": IMAGE.astype(np.float32)}, "got dtype float32"),
        ({"image": IMAGE[0]}, r"got shape \[3, 5\]"),
        ({"image": np.zeros((5, 2, 2), np.int16)}, "a batch of at most 4, got 5"),
    ):
        with pytest.raises(UsageError, match=said):
            engine.infer(feeds)
    assert servicer.requests == []


def test_a_request_that_is_too_large_never_leaves(
    engine: TritonEngine, servicer: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_wire, "MAX_REQUEST_BYTES", 2**20)
    with pytest.raises(UsageError, match="a request of at most 1 MiB, got 2 MiB: send fewer slices"):
        engine.infer({"image": np.zeros((1, 1024, 1024), np.int16)})
    assert servicer.requests == []


def test_many_engines_in_many_threads(address: str) -> None:
    def ask(value: int) -> int:
        with TritonEngine(address, model="echo") as engine:
            return int(engine.infer({"image": np.full((1, 2, 2), value, np.int16)})["mask"].sum())

    with futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, [0, 1, 0, 1, 1])) == [0, 4, 0, 4, 4]


def test_no_server(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UsageError, match=rf"no Triton server answers at 127\.0\.0\.1:{port}: .*`coronanet serve`"):
        TritonEngine(f"127.0.0.1:{port}")


def test_a_server_that_goes_away(engine: TritonEngine, servicer: _Server) -> None:
    servicer.answers = False
    with pytest.raises(UsageError, match="left mask out of its answer"):
        engine.infer({"image": IMAGE})


def test_an_http_port_is_told_from_a_grpc_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UsageError, match="is not gRPC: give the gRPC port, 8001"):
            TritonEngine(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=5)
        thread.join()


def test_a_silent_server_meets_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UsageError, match=rf"{address} did not answer within 0\.3 s"):
            TritonEngine(address, timeout_s=0.3)


def test_a_slow_inference_meets_the_deadline(address: str, servicer: _Server) -> None:
    servicer.delay_s = 1.5
    with (
        TritonEngine(address, model="echo", timeout_s=1) as engine,
        pytest.raises(UsageError, match="did not answer within 1 s"),
    ):
        engine.infer({"image": IMAGE})


def test_an_unknown_model(address: str) -> None:
    with pytest.raises(UsageError, match="refused coronanet: Request for unknown model: 'coronanet' is not found"):
        TritonEngine(address)


def test_an_unknown_output(address: str) -> None:
    with pytest.raises(UsageError, match="echo has no output 'masks': expected one of mask, probability"):
        TritonEngine(address, model="echo", outputs=["masks"])


def test_a_refusal_of_the_server_is_one_line(engine: TritonEngine, address: str) -> None:
    with pytest.raises(UsageError, match=f"the Triton server at {address} refused echo: no negative pixels$"):
        engine.infer({"image": IMAGE - 1})


def test_a_model_that_does_not_fit(address: str, servicer: _Server) -> None:
    servicer.max_batch_size = 0
    with pytest.raises(UsageError, match="does not batch"):
        TritonEngine(address, model="echo")
    servicer.max_batch_size, servicer.datatype = 4, "BYTES"
    with pytest.raises(UsageError, match="image of type BYTES: expected one of INT16, FP32, UINT8"):
        TritonEngine(address, model="echo")


def test_images_never_take_a_proxy(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    with TritonEngine(address, model="echo") as engine:
        assert engine.infer({"image": IMAGE}).keys() == {"mask", "probability"}


@pytest.mark.parametrize("address", ["127.0.0.1:8001", "localhost:1", "server.example.org:65535", "[::1]:8001"])
def test_addresses(address: str) -> None:
    assert check_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        "localhost:",
        ":8001",
        "http://localhost:8001",
        "localhost:0",
        "localhost:65536",
        "::1:8001",
        "a b:1",
    ],
)
def test_malformed_addresses(address: str) -> None:
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        check_address(address)
