"""SIGTERM under load: what was accepted is finished, and nobody waits for an idle connection."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc_client
from coronanet.serving.server import EXIT_GRACE_S, EXIT_TIMEOUT_S
from tritonclient.utils import InferenceServerException

from .conftest import Answer, Image, Record, ask, left_by, serving, slices

#: Requests that are in flight when the signal comes, and slices in each: a canary between them has one.
REQUESTS, SLICES = 4, 3
#: How long a request may take, and what a machine that is busy adds to the time that stopping takes.
DEADLINE_S, SLACK_S = 90.0, 15.0


def _begun(client: grpc_client.InferenceServerClient) -> int:
    """How many slices are through the first step, so that what is left of their requests is the server's to finish."""
    told: Any = client.get_inference_statistics("preprocess", client_timeout=10)
    return told.model_stats[0].inference_count


def test_what_was_accepted_is_finished(repository: Path, tmp_path: Path, record_property: Record) -> None:
    with (
        serving(repository, tmp_path, "--exit-timeout", "60") as served,
        grpc_client.InferenceServerClient(served.address) as client,
        ThreadPoolExecutor(REQUESTS) as pool,
    ):
        image = np.concatenate(slices(SLICES, size=512))
        expected = ask(served.address, image)
        before = _begun(client)
        asked = [pool.submit(ask, served.address, image, 60) for _ in range(REQUESTS)]
        served.until(lambda: _begun(client) >= before + REQUESTS * SLICES, 60, every_s=0.005)
        in_flight = sum(not each.done() for each in asked)
        assert in_flight, "there was something to finish"
        started = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        for each in asked:
            for name, array in each.result().items():
                np.testing.assert_allclose(array, expected[name], atol=1e-6, err_msg=name)
        assert served.process.wait(90) == 0  # --exit-timeout, and what stopping itself takes
        took_s = time.monotonic() - started
        record_property(
            "figure", f"{REQUESTS} answered, {in_flight} of them after the signal; gone after {took_s:.1f} s"
        )
        assert [event["event"] for event in served.events[-2:]] == ["stopping", "stopped"]
    assert left_by(served) == []


def test_clients_that_go_on_asking_are_answered_or_refused_and_the_server_goes_in_time(
    pair_repository: Path, tmp_path: Path, record_property: Record
) -> None:
    signalled = threading.Event()

    def ask_on(image: Image) -> tuple[list[Answer], str]:
        """The answers to one request behind the other, those behind the signal alone, and what ended it."""
        answers: list[Answer] = []
        while True:
            counts = signalled.is_set()
            try:
                answer = ask(served.address, image, DEADLINE_S)
            except InferenceServerException as error:
                return answers, error.status() or ""
            if counts:
                answers.append(answer)

    images = slices(REQUESTS, size=512)
    with serving(pair_repository, tmp_path) as served, ThreadPoolExecutor(REQUESTS) as pool:
        expected = [ask(served.address, image) for image in images]
        asking = [pool.submit(ask_on, image) for image in images]
        time.sleep(1)
        started = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        signalled.set()
        assert served.process.wait(DEADLINE_S) == 0
        took_s = time.monotonic() - started
        ended = [each.result() for each in asking]
        assert took_s < EXIT_TIMEOUT_S + EXIT_GRACE_S + SLACK_S
        assert "StatusCode.DEADLINE_EXCEEDED" not in {status for _, status in ended}, "nobody was left without a word"
        for (answers, _), wanted in zip(ended, expected, strict=True):
            for answer in answers:
                np.testing.assert_array_equal(answer["infected_probability"], wanted["infected_probability"])
        record_property(
            "figure",
            f"{sum(len(answers) for answers, _ in ended)} answers behind the signal, then "
            f"{', '.join(sorted({status for _, status in ended}))}; gone after {took_s:.1f} s",
        )
    assert left_by(served) == []


def test_nobody_waits_for_an_idle_connection(pair_repository: Path, tmp_path: Path, record_property: Record) -> None:
    with serving(pair_repository, tmp_path) as served:
        host, _, port = served.ready["http"].rpartition(":")
        with socket.create_connection((host, int(port))) as idle:
            idle.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(1000).startswith(b"HTTP/1.1 200")
            started = time.monotonic()
            served.process.send_signal(signal.SIGTERM)
            assert served.process.wait(90) == 0  # --exit-timeout, and what stopping itself takes
            took_s = time.monotonic() - started
            assert idle.recv(1) == b"", "it was told that the server is gone"
        assert took_s < EXIT_TIMEOUT_S
        record_property("figure", f"gone after {took_s:.1f} s")


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
