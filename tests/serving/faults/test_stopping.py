"""SIGTERM under load: what was accepted is finished, everybody else gets an error, and nobody waits for an idle
connection."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tritonclient.grpc as grpc_client

from .conftest import Image, Record, ask, left_by, serving, slices


def test_what_was_accepted_is_finished(pair_repository: Path, tmp_path: Path, record_property: Record) -> None:
    with serving(pair_repository, tmp_path) as served:
        (image,) = slices(1, size=512, different=1)
        expected = ask(served.address, image)["infected_probability"].item()
        host, _, port = served.ready["http"].rpartition(":")
        with socket.create_connection((host, int(port))) as idle, ThreadPoolExecutor(8) as pool:
            idle.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(1000).startswith(b"HTTP/1.1 200")
            sent = threading.Barrier(9)

            def one(image: Image) -> tuple[float | None, float]:
                sent.wait()
                started = time.monotonic()
                try:
                    return ask(served.address, image, 20)["infected_probability"].item(), time.monotonic() - started
                except grpc_client.InferenceServerException:
                    return None, time.monotonic() - started

            asked = [pool.submit(one, image) for _ in range(8)]
            sent.wait()
            time.sleep(0.05)
            started = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            answers = [each.result() for each in asked]
            assert served.process.wait(20) == 0
            took_s = time.monotonic() - started
            assert idle.recv(1) == b"", "it was told that the server is gone"
        assert [answer for answer, _ in answers if answer is not None] == [pytest.approx(expected, abs=1e-6)] * sum(
            answer is not None for answer, _ in answers
        )
        assert max(seconds for _, seconds in answers) < 20
        assert took_s < 10, "the idle connection did not eat the exit timeout"
        answered = sum(answer is not None for answer, _ in answers)
        record_property("figure", f"{answered} of 8 answered; gone after {took_s:.1f} s")
        assert [event["event"] for event in served.events[-2:]] == ["stopping", "stopped"]
    assert left_by(served) == []


def test_the_server_does_not_outlive_a_killed_coronanet_serve(pair_repository: Path, tmp_path: Path) -> None:
    with serving(pair_repository, tmp_path) as served:
        server = served.server
        served.process.kill()
        served.process.wait()
        deadline = time.monotonic() + 20
        while (left_by(served) or os.path.exists(f"/proc/{server}")) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not os.path.exists(f"/proc/{server}")
        assert left_by(served) == []
