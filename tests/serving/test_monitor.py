"""Metrics and health over HTTP: what a load balancer and Prometheus are told."""

import json
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from coronanet.model.errors import UsageError
from coronanet.serving.monitor import Monitor
from prometheus_client.parser import text_string_to_metric_families

from .conftest import needs_ipv6


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    with Monitor(port=0) as running:
        running.serves({"classification": "abc"}, ["preprocess", "classification"])
        yield running


def _get(monitor: Monitor, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{monitor.address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _sample(monitor: Monitor, name: str, **labels: str) -> float:
    families = text_string_to_metric_families(_get(monitor, "/metrics")[1])
    found = [
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    ]
    assert len(found) == 1, f"{name} {labels}"
    return found[0]


def test_ready_is_the_last_canary(monitor: Monitor) -> None:
    status, body = _get(monitor, "/health/ready")
    assert (status, json.loads(body)) == (503, {"ok": False, "reason": "no canary was answered yet"})
    monitor.canary_answered(0.02)
    assert _get(monitor, "/health/ready")[0] == 200
    monitor.canary_failed("Stub process is not healthy")
    status, body = _get(monitor, "/health/ready")
    assert (status, json.loads(body)["reason"]) == (503, "Stub process is not healthy")
    assert _get(monitor, "/health/live")[0] == 200, "the watchdog is still at it"


def test_a_watchdog_that_gave_up_is_neither_ready_nor_live(monitor: Monitor) -> None:
    monitor.canary_answered(0.02)
    monitor.gave_up("three restarts in a minute")
    for path in ("/health/ready", "/health/live"):
        status, body = _get(monitor, path)
        assert (status, json.loads(body)["reason"]) == (503, "three restarts in a minute")


def test_a_silent_watchdog_is_not_ready() -> None:
    with Monitor(port=0, stale_after_s=0.0) as monitor:
        monitor.canary_answered(0.02)
        status, body = _get(monitor, "/health/ready")
    assert status == 503
    assert "the watchdog is stuck" in body


def test_what_prometheus_reads(monitor: Monitor) -> None:
    assert _sample(monitor, "coronanet_up") == 0
    assert _sample(monitor, "coronanet_canaries_total", result="failed") == 0
    assert _sample(monitor, "coronanet_bundle_info", task="classification", sha256="abc") == 1
    monitor.serves({"classification": "def"}, ["classification"])
    assert "abc" not in _get(monitor, "/metrics")[1]
    monitor.canary_answered(0.02)
    monitor.canary_failed("gone")
    monitor.canary_answered(0.3)
    monitor.recovered("model", "lung_segmentation")
    monitor.recovered("server")
    assert _sample(monitor, "coronanet_up") == 1
    assert _sample(monitor, "coronanet_canaries_total", result="answered") == 2
    assert _sample(monitor, "coronanet_canaries_total", result="failed") == 1
    assert _sample(monitor, "coronanet_canary_seconds_bucket", le="0.025") == 1
    assert _sample(monitor, "coronanet_canary_seconds_sum") == pytest.approx(0.32)
    assert _sample(monitor, "coronanet_canary_last_success_timestamp_seconds") > 1.7e9
    assert _sample(monitor, "coronanet_recoveries_total", kind="model", model="lung_segmentation") == 1
    assert _sample(monitor, "coronanet_recoveries_total", kind="server", model="") == 1


def test_the_events_of_a_watchdog_are_heard(monitor: Monitor) -> None:
    monitor.hear("starting", repository="somewhere")
    assert not monitor.ready().ok
    monitor.hear("ready", seconds=3.1, pid=7)
    assert monitor.ready().ok
    monitor.hear("model_died", models=["lung_segmentation"])
    assert monitor.ready().reason == "model died: lung_segmentation"
    monitor.hear("model_back", models=["lung_segmentation"], seconds=1.5)
    monitor.hear("well", reason="", models=[], canary_ms=21)
    monitor.hear("busy", reason="late", models=[], canary_ms=15000)
    assert monitor.ready().ok, "a busy server gets on with its work"
    monitor.hear("sick", reason="wrong answer", models=[], canary_ms=3)
    assert monitor.ready().reason == "wrong answer"
    monitor.hear("server_died", reason="exit code -9")
    monitor.hear("restarted", seconds=4.0)
    assert monitor.ready().ok
    assert _sample(monitor, "coronanet_recoveries_total", kind="model", model="lung_segmentation") == 1
    assert _sample(monitor, "coronanet_recoveries_total", kind="server", model="") == 1
    assert _sample(monitor, "coronanet_canary_seconds_sum") == pytest.approx(0.021)
    monitor.hear("gave_up", reason="three restarts")
    assert monitor.live().reason == "three restarts"


def test_the_first_recovery_of_a_model_is_an_increase(monitor: Monitor) -> None:
    for model in ("preprocess", "classification"):
        assert _sample(monitor, "coronanet_recoveries_total", kind="model", model=model) == 0
    monitor.recovered("model", "preprocess")
    monitor.serves({"classification": "def"}, ["preprocess", "classification"])
    assert _sample(monitor, "coronanet_recoveries_total", kind="model", model="preprocess") == 1


def test_other_paths_say_which_there_are(monitor: Monitor) -> None:
    assert _get(monitor, "/") == (404, "expected /metrics, /health/ready or /health/live\n")


def test_a_caller_that_says_nothing_holds_nobody_up(monitor: Monitor) -> None:
    host, port = monitor.address.split(":")
    with socket.create_connection((host, int(port))):
        assert _get(monitor, "/health/live")[0] == 200


def test_a_busy_server_is_heard_of_though_no_canary_was_right(monitor: Monitor) -> None:
    heard, right = "coronanet_watchdog_last_heard_timestamp_seconds", "coronanet_canary_last_success_timestamp_seconds"
    assert _sample(monitor, heard) == 0
    monitor.hear("busy", reason="late", models=[], canary_ms=15000)
    assert _sample(monitor, heard) > 1.7e9
    assert _sample(monitor, right) == 0


def test_a_probe_that_hangs_up_early_leaves_no_traceback(
    monitor: Monitor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    shut_down = ThreadingHTTPServer.shutdown_request

    def last(server: ThreadingHTTPServer, request: Any) -> None:
        shut_down(server, request)
        ended.set()

    monkeypatch.setattr(ThreadingHTTPServer, "shutdown_request", last)
    host, port = monitor.address.split(":")
    with socket.create_connection((host, int(port))) as probe:
        # Closed at once, with a reset.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ended.wait(10)
    assert capsys.readouterr().err == ""


@needs_ipv6
def test_it_listens_on_ipv6() -> None:
    with Monitor("::1") as monitor:
        assert monitor.address.startswith("[::1]:")
        assert _get(monitor, "/health/live")[0] == 200


def test_a_port_in_use_is_named_with_its_option() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UsageError, match=rf"port {taken.getsockname()[1]} .*in use.*--health-port"),
        Monitor(port=taken.getsockname()[1]),
    ):
        pass
