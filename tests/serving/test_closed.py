"""What of Triton's protocols is closed to everybody, on both ports, on loopback and beyond, traced or not."""

import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc_client
from coronanet.benchmarks.triton_admin import TritonAdmin
from coronanet.engines.triton_wire import NOBODY, ClosedError
from coronanet.model.errors import UsageError
from coronanet.serving.addresses import ANY_PORTS
from coronanet.serving.closed import closing_options
from coronanet.serving.server import TritonServer

from .faults.conftest import ask, http, slices

TRACE = {"trace/setting": "GET", "models/coronanet/trace/setting": "POST"}
#: Path below /v2 -> method: a call of each kind that HTTP has.
HTTP = {
    "repository/index": "POST",
    "repository/models/classification/load": "POST",
    "repository/models/classification/unload": "POST",
    "logging": "GET",
    "systemsharedmemory/status": "GET",
    "systemsharedmemory/region/ours/register": "POST",
    "systemsharedmemory/unregister": "POST",
    "cudasharedmemory/status": "GET",
}
Call = Callable[[grpc_client.InferenceServerClient], Any]
GRPC_TRACE: dict[str, Call] = {
    "read the trace": lambda client: client.get_trace_settings(),
    "trace pixels": lambda client: client.update_trace_settings(settings={"trace_level": ["TENSORS"]}),
}
GRPC: dict[str, Call] = {
    "list models": lambda client: client.get_model_repository_index(),
    "load": lambda client: client.load_model("classification"),
    "unload": lambda client: client.unload_model("classification"),
    "read the log": lambda client: client.get_log_settings(),
    "change the log": lambda client: client.update_log_settings({"log_verbose_level": 1}),
    "shared memory": lambda client: client.get_system_shared_memory_status(),
    "share memory": lambda client: client.register_system_shared_memory("ours", "/ours", 1),
    "shared GPU memory": lambda client: client.get_cuda_shared_memory_status(),
}


@pytest.fixture(scope="module")
def remote(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server that other machines can reach."""
    log = tmp_path_factory.mktemp("remote") / "log"
    with TritonServer(small_repository, host="0.0.0.0", ports=ANY_PORTS, log=log, allow_remote=True) as server:
        yield server


@pytest.fixture(scope="module")
def traced(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("traced")
    with TritonServer(small_repository, ports=ANY_PORTS, log=folder / "log", trace=folder / "trace") as server:
        yield server


def _here(address: str) -> str:
    return address.replace("0.0.0.0", "127.0.0.1")


def _status(server: TritonServer, method: str, path: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{_here(server.http_address)}/v2/{path}", b"{}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("where", ["triton_server", "remote"])
def test_nobody_can_use_it_over_http(request: pytest.FixtureRequest, where: str) -> None:
    server: TritonServer = request.getfixturevalue(where)
    for path, method in (HTTP | TRACE).items():
        status, said = _status(server, method, path)
        assert (status, "This API is restricted" in said) == (403, True), (path, said)


@pytest.mark.parametrize("where", ["triton_server", "remote"])
def test_nobody_can_use_it_over_grpc(request: pytest.FixtureRequest, where: str) -> None:
    server: TritonServer = request.getfixturevalue(where)
    with grpc_client.InferenceServerClient(_here(server.address)) as client:
        for call in (GRPC | GRPC_TRACE).values():
            with pytest.raises(grpc_client.InferenceServerException, match="This protocol is restricted"):
                call(client)


def test_a_trace_that_was_asked_for_can_be_used_and_nothing_else(traced: TritonServer) -> None:
    assert all(_status(traced, method, path)[0] == 200 for path, method in TRACE.items())
    assert {_status(traced, method, path)[0] for path, method in HTTP.items()} == {403}
    with grpc_client.InferenceServerClient(traced.address) as client:
        client.get_trace_settings()
        for call in GRPC.values():
            with pytest.raises(grpc_client.InferenceServerException, match="This protocol is restricted"):
                call(client)


def test_a_trace_is_for_this_machine_alone(small_repository: Path, tmp_path: Path) -> None:
    server = TritonServer(small_repository, host="0.0.0.0", ports=ANY_PORTS, trace=tmp_path / "t", allow_remote=True)
    with pytest.raises(UsageError, match=r"--trace lets .* expected a --host such as 127\.0\.0\.1 with it, got 0\.0"):
        server.check_machine()


def test_a_trace_at_its_most_verbose_has_pixels_in_it(traced: TritonServer) -> None:
    """What docs/operations.md warns of."""
    image = slices(1, size=64)[0]
    image[0, 0, :3] = 1234, -567, 89

    def written() -> str:
        assert traced.trace is not None
        return "".join(path.read_text() for path in traced.trace.parent.glob("trace*"))

    with grpc_client.InferenceServerClient(traced.address) as client:
        on = {"trace_level": ["TENSORS"], "trace_rate": "1", "trace_count": "1", "log_frequency": "1"}
        client.update_trace_settings(settings=on)
        ask(traced.address, image)
        # Triton ends a trace a little after the answer.
        deadline = time.monotonic() + 30
        while "1234,-567,89" not in written():
            assert time.monotonic() < deadline, written()
            time.sleep(0.1)
        client.update_trace_settings(settings={"trace_level": ["OFF"]})


def test_our_own_client_says_that_it_is_closed(triton_server: TritonServer) -> None:
    with TritonAdmin(triton_server.address) as admin:
        assert admin.trace_file() is None
        with pytest.raises(ClosedError, match="was started with this closed: coronanet"):
            admin.trace("coronanet", on=True)


def _grpc_bytes(address: str, path: str, header: tuple[str, str]) -> bytes:
    """What a server sends back to a call with a header that no client library would send, as bytes of HTTP/2."""

    def field(name: str, value: str) -> bytes:
        return b"\x00" + b"".join(bytes([len(text)]) + text.encode() for text in (name, value))

    def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
        return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body

    host, _, port = address.rpartition(":")
    names = {":method": "POST", ":scheme": "http", ":path": path, ":authority": address}
    names |= {"content-type": "application/grpc", "te": "trailers"}
    fields = b"".join(field(*each) for each in (*names.items(), header))
    sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    sent += frame(1, 4, 1, fields) + frame(0, 1, 1, bytes(5))
    said = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        connection.settimeout(1)
        try:
            while part := connection.recv(65536):
                said += part
        except TimeoutError:
            pass
    return said


def test_who_reads_the_command_line_still_cannot_send_the_header(
    triton_server: TritonServer, traced: TritonServer
) -> None:
    value = closing_options()[0].rpartition("=")[2]
    assert f"{NOBODY}={value}".encode() in Path(f"/proc/{triton_server.pid}/cmdline").read_bytes()
    for name in (NOBODY, NOBODY.lower(), NOBODY.replace(":", "%3a"), f'"{NOBODY}"'):
        said = http(
            triton_server.http_address,
            f"GET /v2/logging HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{name}: {value}\r\n\r\n".encode(),
        )
        assert said.split(b" ", 2)[1] in (b"400", b"403"), (name, said)
    path = "/inference.GRPCInferenceService/TraceSetting"
    assert b"trace_level" in _grpc_bytes(traced.address, path, ("nobody", value)), "it is a call as Triton takes it"
    for name in (f"triton-grpc-protocol-{NOBODY}", f"triton-grpc-protocol-{NOBODY}".lower()):
        said = _grpc_bytes(triton_server.address, path, (name, value))
        assert b"trace_level" not in said, (name, said)
