"""What the watchdog of a server knows, told to Prometheus and to load balancers over HTTP.

Triton counts requests, queues and times by itself, at its own metrics port. This says what Triton cannot: whether the
canary, an inference through the whole ensemble, was answered rightly, and what was brought back.
"""

import errno
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..model.errors import UsageError
from ..model.tasks import TaskName
from .addresses import family, join

#: A watchdog that has said nothing for so long is stuck, and "ready" is no longer known. A canary may take 30 s.
STALE_AFTER_S = 90.0
#: A caller that sends or reads nothing for so long is let go.
SOCKET_TIMEOUT_S = 5.0
CANARY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

Recovery = Literal["model", "server"]


@dataclass(frozen=True)
class Health:
    """A verdict and, where it is no, why."""

    ok: bool
    reason: str = ""


class Monitor:
    """Metrics and health of one server, over HTTP; a context manager that listens from entering to leaving.

    ``GET /metrics`` is for Prometheus. ``GET /health/ready`` answers 200 while the last canary was right and the
    watchdog is heard of, else 503; ``GET /health/live`` answers 200 until the watchdog has given up. Both carry a JSON
    object with ``ok`` and ``reason``. All methods may be called from any thread.

    Args:
        host: where to listen; loopback unless told otherwise.
        port: 0 takes any that is free, see ``address``.
        stale_after_s: how long a canary's answer counts, in seconds.

    Entering raises:
        UsageError: the port cannot be used.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        stale_after_s: float = STALE_AFTER_S,
    ) -> None:
        self._host, self._port, self._stale_after_s = host, port, stale_after_s
        self._http: ThreadingHTTPServer | None = None
        self._lock = threading.Lock()
        self._last = Health(False, "no canary was answered yet")
        self._heard = time.monotonic()
        self._gone = ""
        self.registry = CollectorRegistry()
        self._up = Gauge("coronanet_up", "1 while the last canary was answered rightly.", registry=self.registry)
        self._canaries = Counter(
            "coronanet_canaries", "Canary inferences, by result.", ["result"], registry=self.registry
        )
        self._latency = Histogram(
            "coronanet_canary_seconds",
            "How long the canaries that were answered took.",
            buckets=CANARY_BUCKETS_S,
            registry=self.registry,
        )
        self._success = Gauge(
            "coronanet_canary_last_success_timestamp_seconds",
            "When a canary was last answered rightly, in Unix time; 0 where none was.",
            registry=self.registry,
        )
        self._heard_at = Gauge(
            "coronanet_watchdog_last_heard_timestamp_seconds",
            "When the watchdog last said how the server is, busy or whatever else, in Unix time; 0 before the first.",
            registry=self.registry,
        )
        self._recoveries = Counter(
            "coronanet_recoveries",
            "What the watchdog brought back: a model (one step's process) or the whole server.",
            ["kind", "model"],
            registry=self.registry,
        )
        self._served = Gauge(
            "coronanet_bundle_info", "What is served; always 1.", ["task", "sha256"], registry=self.registry
        )
        # A series that exists from the start shows its first increase.
        for result in ("answered", "failed"):
            self._canaries.labels(result)
        self._recoveries.labels("server", "")

    @property
    def address(self) -> str:
        """``HOST:PORT`` that it listens on."""
        port = self._http.server_address[1] if self._http else self._port
        return join(self._host, port)

    def serves(self, bundles: Mapping[TaskName, str], models: Iterable[str]) -> None:
        """What is served from now on: task -> hash of its bundle, and the models that may have to be brought back."""
        for model in models:
            self._recoveries.labels("model", model)
        self._served.clear()
        for task, sha256 in bundles.items():
            self._served.labels(task, sha256).set(1)

    def canary_answered(self, seconds: float) -> None:
        """The canary got the right answer, in ``seconds``."""
        self._become(Health(True))
        self._canaries.labels("answered").inc()
        self._latency.observe(seconds)

    def canary_failed(self, reason: str) -> None:
        """The canary got a wrong answer or none; ``reason`` in one line, with nothing of a patient in it."""
        self._become(Health(False, reason))
        self._canaries.labels("failed").inc()

    def recovered(self, kind: Recovery, model: str = "") -> None:
        """The watchdog brought back the process of a model, or restarted the server."""
        self._recoveries.labels(kind, model).inc()

    def gave_up(self, reason: str) -> None:
        """The server will not come back by itself: it is neither ready nor live any more."""
        with self._lock:
            self._gone = reason
        self._up.set(0)

    def hear(self, event: str, /, **fields: str | int | float | bool | list[str] | None) -> None:
        """An event of the watchdog, by its name: those that say how the server is, or what was done about it."""
        reason, models = str(fields.get("reason") or event), fields.get("models")
        names = models if isinstance(models, list) else []
        match event:
            case "well":
                milliseconds = fields.get("canary_ms")
                self.canary_answered(float(milliseconds) / 1000 if isinstance(milliseconds, int | float) else 0.0)
            case "busy":  # late, but getting on with its work: as ready as it was
                self._hear()
            case "ready" | "restarted":  # neither is said before a canary was right
                self._become(Health(True))
                if event == "restarted":
                    self.recovered("server")
            case "sick":
                self.canary_failed(reason)
            case "model_died" | "server_died":
                self._become(Health(False, f"{event.replace('_', ' ')}: {', '.join(names) or reason}"))
            case "model_back":
                for name in names:
                    self.recovered("model", name)
            case "gave_up":
                self.gave_up(reason)
            case _:
                pass

    def ready(self) -> Health:
        """Whether requests may come: what the last canary said, unless the watchdog has gone silent."""
        with self._lock:
            last, silent_s, gone = self._last, time.monotonic() - self._heard, self._gone
        if gone:
            return Health(False, gone)
        if last.ok and silent_s > self._stale_after_s:
            return Health(False, f"no canary for {silent_s:.0f} s: the watchdog is stuck")
        return last

    def live(self) -> Health:
        """Whether waiting can help: the watchdog has not given up."""
        with self._lock:
            return Health(not self._gone, self._gone)

    def _become(self, health: Health) -> None:
        with self._lock:
            self._last = health
        self._hear()
        self._up.set(float(health.ok))
        if health.ok:
            self._success.set_to_current_time()

    def _hear(self) -> None:
        with self._lock:
            self._heard = time.monotonic()
        self._heard_at.set_to_current_time()

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"monitor": self})
        try:
            self._http = _Server(self._host, self._port, handler)
        except OSError as error:
            reason = "in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
            raise UsageError(
                f"port {self._port} on {self._host} cannot be used for health and metrics ({reason}): stop what "
                "listens there, or choose another with --health-port (0: any that is free)"
            ) from None
        threading.Thread(target=self._http.serve_forever, name="monitor", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A slow caller must not hold up the end.
    block_on_close = False

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = family(host)
        super().__init__((host, port), handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A prober that hangs up before it has its answer is no error of ours."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    monitor: Monitor
    timeout = SOCKET_TIMEOUT_S
    server_version = "coronanet"
    sys_version = ""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/metrics":
            self._send(200, CONTENT_TYPE_LATEST, generate_latest(self.monitor.registry))
        elif path in ("/health/ready", "/health/live"):
            health = self.monitor.ready() if path.endswith("ready") else self.monitor.live()
            body = json.dumps({"ok": health.ok, "reason": health.reason}).encode() + b"\n"
            self._send(200 if health.ok else 503, "application/json", body)
        else:
            self._send(404, "text/plain", b"expected /metrics, /health/ready or /health/live\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of http.server
        """Probes come every few seconds: nothing of them belongs into a log."""

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
