"""gRPC clients that do not read their answer, or that send their request a few bytes at a time, hold up nobody."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import pytest
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.serving.repository import fill_repository

from .conftest import Record, Served, ask, serving, slices

#: More than the requests that Triton keeps a place for.
CLIENTS = 16
DEADLINE_S = 120.0
#: Bytes that a relay passes on at once; of an answer, as many as there are before it holds the rest; and how long it
#: waits before it passes on the next of a request.
PIECE, FIRST, PAUSE_S = 1024, 16 * 1024, 0.05
TROUBLE = ("sick", "model_died", "server_died", "restarting")

Slow = Literal["does not read its answer", "sends slowly"]


class Relay:
    """Between a client and a server; makes the client slow until ``resume`` is set. A context manager."""

    def __init__(self, server: str, slow: Slow) -> None:
        host, _, port = server.rpartition(":")
        self.resume, self.is_slow = threading.Event(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = socket.create_connection((host, int(port)))
        self._thread = threading.Thread(target=self._run, args=(slow,))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def _run(self, slow: Slow) -> None:
        client, _ = self._listener.accept()
        reads, sends = (self._hold, _at_once) if slow == "does not read its answer" else (_at_once, self._trickle)
        with client:
            answers = threading.Thread(target=_pass_on, args=(self._server, client, reads))
            answers.start()
            _pass_on(client, self._server, sends)
            answers.join()

    def _hold(self, passed: int) -> None:
        if passed >= FIRST:
            self.is_slow.set()
            self.resume.wait()

    def _trickle(self, passed: int) -> None:
        if passed >= FIRST:
            self.is_slow.set()
        self.resume.wait(PAUSE_S)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.resume.set()
        self._thread.join()
        self._server.close()
        self._listener.close()


def _at_once(passed: int) -> None:
    """No client is slow on purpose here."""


def _pass_on(source: socket.socket, sink: socket.socket, wait: Callable[[int], None]) -> None:
    """Bytes, until one side hangs up; ``wait`` is called before each piece with how many there were."""
    passed = 0
    with suppress(OSError):
        while True:
            wait(passed)
            part = source.recv(PIECE)
            if not part:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(part)
            passed += len(part)


@pytest.fixture(scope="module")
def served(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with one small network, whose answers are masks."""
    folder = tmp_path_factory.mktemp("slow")
    repository: Path = folder / "triton_repo"
    fill_repository({"lung_segmentation": tiny_bundle}, repository, {"lung_segmentation": Choice(threads=1)})
    with serving(repository, folder) as running:
        yield running


@pytest.mark.timeout(4 * DEADLINE_S)
@pytest.mark.parametrize("slow", ["does not read its answer", "sends slowly"])
def test_a_client_that_is_slow_holds_up_nobody_and_gets_its_answer(
    served: Served, slow: Slow, record_property: Record
) -> None:
    large = np.concatenate(slices(8, size=512))  # 4 MiB, answered with 2 MiB
    expected = ask(served.address, large)
    longest_s = 0.0
    with ThreadPoolExecutor(CLIENTS) as pool, ExitStack() as stack:
        relays = [stack.enter_context(Relay(served.address, slow)) for _ in range(CLIENTS)]
        waiting = [pool.submit(ask, relay.address, large, DEADLINE_S) for relay in relays]
        served.until(lambda: all(relay.is_slow.is_set() for relay in relays), DEADLINE_S / 4)
        for image in slices(10):
            started = time.monotonic()
            ask(served.address, image, DEADLINE_S / 4)
            longest_s = max(longest_s, time.monotonic() - started)
        assert not any(each.done() for each in waiting), "they were slow all the while"
        for relay in relays:
            relay.resume.set()
        for each in waiting:
            for name, array in each.result().items():
                np.testing.assert_array_equal(array, expected[name], err_msg=name)
    assert served.seen(*TROUBLE) == []
    record_property(
        "figure", f"{CLIENTS} clients, each {slow}: another's request took {longest_s * 1000:.0f} ms at most"
    )
