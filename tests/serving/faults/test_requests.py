"""Requests that are wrong, huge, malformed, too many or too slow: each client gets its answer or an error in time, and
the server goes on as if nothing had been."""

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice, LocalEnsemble
from coronanet.engines.triton_engine import TritonEngine
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TaskName
from coronanet.serving import triton_config
from coronanet.serving.processes import model_processes
from coronanet.serving.repository import fill_repository

from .conftest import Answer, Image, Record, Served, ask, http, post, serving, slices

#: What a client that is refused waits at most.
REFUSAL_S = 10.0
#: Clients that ask a server whose queue has room for few of them.
CROWD = 32
TROUBLE = ("sick", "model_died", "server_died", "restarting", "gave_up")


@pytest.fixture(scope="module")
def right(bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice]) -> tuple[Image, float]:
    """A slice, and the probability that the same chain in this process gives it."""
    image = slices(1)[0]
    with LocalEnsemble({"classification": bundles["classification"]}, choices) as ensemble:
        return image, float(ensemble.infer({"image": image})["infected_probability"].item())


@pytest.fixture(autouse=True)
def unharmed(served: Served, right: tuple[Image, float]) -> Iterator[None]:
    """Behind every test the server answers rightly, and the watchdog had nothing to do."""
    yield
    image, probability = right
    answer: Answer = ask(served.address, image)
    assert answer["infected_probability"].item() == pytest.approx(probability, abs=1e-6)
    assert served.process.poll() is None
    assert served.seen(*TROUBLE) == []


@contextmanager
def _refused_within(seconds: float, match: str) -> Generator[None]:
    started = time.monotonic()
    with pytest.raises(grpc_client.InferenceServerException, match=match):
        yield
    assert time.monotonic() - started < seconds


def _input(name: str, shape: list[int], kind: str, array: Any) -> grpc_client.InferInput:
    tensor = grpc_client.InferInput(name, shape, kind)
    tensor.set_data_from_numpy(array)
    return tensor


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ([_input("image", [1, 64], "INT16", np.zeros((1, 64), np.int16))], "shape"),
        ([_input("image", [1, 64, 64], "FP32", np.zeros((1, 64, 64), np.float32))], "data-type"),
        (
            [_input("slice", [1, 64, 64], "INT16", np.zeros((1, 64, 64), np.int16))],
            "unexpected inference input 'slice'",
        ),
        ([], "expected 1 inputs but got 0"),
        ([_input("image", [9, 64, 64], "INT16", np.zeros((9, 64, 64), np.int16))], "batch-size must be <= 8"),
        ([_input("image", [1, 0, 64], "INT16", np.zeros((1, 0, 64), np.int16))], "got shape"),
    ],
    ids=["shape", "dtype", "name", "missing", "batch", "empty"],
)
def test_a_wrong_request_is_refused(served: Served, tensors: list[grpc_client.InferInput], match: str) -> None:
    with grpc_client.InferenceServerClient(served.address) as client, _refused_within(REFUSAL_S, match):
        client.infer("coronanet", tensors, client_timeout=REFUSAL_S)


def test_an_output_that_is_not_there_is_refused(served: Served) -> None:
    with _refused_within(REFUSAL_S, "nonesuch"):
        ask(served.address, slices(1)[0], REFUSAL_S, ("nonesuch",))


def test_a_huge_request_is_answered_and_our_client_does_not_send_it(served: Served, record_property: Record) -> None:
    image = np.full((1, 6000, 6000), -1000, np.int16)
    with TritonEngine(served.address) as engine, pytest.raises(UsageError, match="at most 64 MiB, got 69 MiB"):
        engine.infer({"image": image})
    started = time.monotonic()
    assert 0 <= ask(served.address, image, 60)["infected_probability"].item() <= 1
    record_property("figure", f"answered after {time.monotonic() - started:.1f} s")


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00" + bytes(range(256)),
        b"GET / HTTP/9.9\r\n\r\n",
        b"A" * 100_000,
        post(b"{}", "Inference-Header-Content-Length: 999999"),
        post(b"{}", "Inference-Header-Content-Length: -1"),
        post(b"short", length=10_000),
        post(b"", length=-5),
        post(b"x" * 100, "Transfer-Encoding: chunked"),
    ],
    ids=[
        "tls",
        "version",
        "no-line",
        "long-header",
        "negative-header",
        "cut-off",
        "negative-length",
        "chunks",
    ],
)
def test_malformed_http_is_refused_or_cut_off(served: Served, data: bytes) -> None:
    try:
        said = http(served.ready["http"], data)
    except ConnectionError:
        return
    assert said == b"" or said.split(b" ", 2)[1][:1] == b"4", said


@pytest.mark.parametrize(
    "body",
    [
        b"{not json",
        b"[]",
        b'{"inputs": [{"name": "image", "shape": [1, -4, 4], "datatype": "INT16", "data": [1]}]}',
    ],
    ids=["no-json", "list", "negative-shape"],
)
def test_json_that_is_no_request_is_refused(served: Served, body: bytes) -> None:
    said = http(served.ready["http"], post(body))
    # As this Triton has it: the fault is the client's, but it answers as if it were its own.
    assert said.startswith(b"HTTP/1.1 500 "), said
    assert b"arse" in said, "it says what it could not read"


def test_a_flood_of_200_requests_at_once_is_answered_and_not_taken_for_death(
    served: Served, record_property: Record
) -> None:
    before = len(served.events)
    images = slices(200, size=512, different=5)
    expected = {number: ask(served.address, images[number])["infected_probability"] for number in range(5)}
    started = time.monotonic()
    with ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(lambda image: ask(served.address, image, 120), images))
    took_s = time.monotonic() - started
    for number, answer in enumerate(answers):
        np.testing.assert_array_equal(answer["infected_probability"], expected[number % 5])
    meanwhile = [event["event"] for event in served.events[before:]]
    assert {*meanwhile} <= {"busy", "well"}
    record_property("figure", f"all answered after {took_s:.1f} s; {meanwhile.count('busy')} times busy")


@pytest.fixture
def crowded(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """A server with a queue that few clients keep full for as long as they like."""
    monkeypatch.setattr(triton_config, "QUEUE_LENGTH", 4)
    fill_repository({"classification": bundles["classification"]}, tmp_path / "triton_repo", choices)
    with serving(tmp_path / "triton_repo", tmp_path) as running:
        yield running


def _heard(served: Served) -> str:
    """When the watchdog last said how the server is, which it does behind every canary."""
    with urllib.request.urlopen(f"http://{served.ready['health']}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return next(line for line in lines if line.startswith("coronanet_watchdog_last_heard_timestamp_seconds "))


def test_a_full_queue_refuses_at_once_and_the_server_is_left_alone(crowded: Served, record_property: Record) -> None:
    processes = (crowded.server, model_processes(crowded.server))
    image = slices(1, size=512)[0]
    expected = ask(crowded.address, image)
    enough = threading.Event()
    refused_s, reasons = list[float](), set[str]()

    def keep_asking(_: int) -> int:
        answered = 0
        while not enough.is_set():
            started = time.monotonic()
            try:
                answer = ask(crowded.address, image, 120)
            except grpc_client.InferenceServerException as error:
                reasons.add(str(error))
                refused_s.append(time.monotonic() - started)
                time.sleep(0.05)
            else:
                np.testing.assert_array_equal(answer["infected_probability"], expected["infected_probability"])
                answered += 1
        return answered

    with ThreadPoolExecutor(CROWD) as pool:
        asking = [pool.submit(keep_asking, number) for number in range(CROWD)]
        try:
            crowded.until(lambda: crowded.seen("busy", *TROUBLE), 120)
            for _ in range(2):  # two that were sick would be a reason to restart it
                heard = _heard(crowded)
                crowded.until(lambda heard=heard: _heard(crowded) != heard, 120)
            with urllib.request.urlopen(f"http://{crowded.ready['health']}/health/ready", timeout=30) as ready:
                assert ready.status == 200
        finally:
            enough.set()
        answered = sum(each.result() for each in asking)
    assert crowded.seen(*TROUBLE) == []
    assert "Exceeds maximum queue size" in crowded.seen("busy")[0]["reason"]
    assert (crowded.server, model_processes(crowded.server)) == processes
    assert answered > 0
    assert all("Exceeds maximum queue size" in reason for reason in reasons)
    assert np.median(refused_s) < REFUSAL_S
    record_property(
        "figure", f"{answered} answered, {len(refused_s)} refused after {np.median(refused_s):.2f} s at the median"
    )


def test_slow_clients_hold_up_nobody(served: Served, record_property: Record) -> None:
    host, _, port = served.ready["http"].rpartition(":")
    body = json.dumps({"inputs": []}).encode()
    slow = [socket.create_connection((host, int(port))) for _ in range(64)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(post(body, length=1000)[: 20 + number])  # and the rest never comes
        started = time.monotonic()
        for image in slices(5):
            ask(served.address, image, REFUSAL_S)
        assert http(served.ready["http"], b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n").startswith(
            b"HTTP/1.1 200"
        )
        took_s = time.monotonic() - started
        assert took_s < REFUSAL_S
        record_property("figure", f"five requests of others took {took_s:.2f} s together")
    finally:
        for connection in slow:
            connection.close()


def test_nothing_of_a_patient_is_in_a_log(served: Served) -> None:
    image = slices(1)[0]
    tensor = _input("image", list(image.shape), "INT16", image)
    wrong = _input("Secret^Name", [1, 64, 64], "INT16", np.zeros((1, 64, 64), np.int16))
    with grpc_client.InferenceServerClient(served.address) as client:
        client.infer("coronanet", [tensor], request_id="Secret^Name", client_timeout=REFUSAL_S)
        with _refused_within(REFUSAL_S, "unexpected"):
            client.infer("coronanet", [wrong], request_id="Secret^Name", client_timeout=REFUSAL_S)
    for file in Path(served.ready["log"]).parent.iterdir():
        assert b"Secret" not in file.read_bytes(), file.name
