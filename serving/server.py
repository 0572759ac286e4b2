"""The embedded Triton server: NVIDIA's binary from the ``nvidia-pytriton`` wheel, on loopback, no GPU, no container.

The server is two years old and meant for development, CI and a single workstation; production is NVIDIA's container.
"""

import ipaddress
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ..engines.places import cache_home
from ..engines.predictor import ensemble_output
from ..engines.triton_engine import TritonEngine
from ..model.errors import CoronanetError, RefusedError, UsageError
from .installation import Installation, environment, find_installation, link_backend
from .repository import RepositoryIndex, read_index

HOST = "127.0.0.1"
SHM = Path("/dev/shm")  # noqa: S108 - POSIX shared memory, not a temporary file
#: A region for each model process; it grows when a tensor needs more, and containers have 64 MiB in all by default.
SHM_BYTES = 2**20
EXIT_TIMEOUT_S = 5
#: Triton logs this error on every machine without a GPU.
NO_GPU = "CudaDriverHelper"
#: A server that is busy with large studies answers late and is well.
CANARY_TIMEOUT_S = 30.0
CANARY_HU = -1000
CANARY_SIZE = 64


@dataclass(frozen=True)
class Ports:
    """Triton's own defaults."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    @classmethod
    def free(cls, host: str = HOST) -> Self:
        """Three ports that nothing uses right now."""
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket(_family(host))) for _ in range(3)]
            for each in sockets:
                each.bind((host, 0))
            return cls(*(each.getsockname()[1] for each in sockets))


class TritonServer:
    """A running server; a context manager that starts it, waits until the ensemble answers, and stops it.

    Args:
        repository: a filled model repository.
        host: a loopback address.
        ports: where it listens.
        log: what Triton and the models print goes there; None is a file in ``cache_home()``.
        start_timeout_s: how long to wait for the first answer, in seconds.

    Entering raises:
        MissingPackageError: Triton is not installed.
        UsageError: numpy 2 or newer, a port in use, an address that is not loopback, no filled repository.
        RefusedError: a step was changed, the server did not start, or answered the canary wrongly.

    The server ends with the thread that started it, also when that is killed.
    """

    def __init__(
        self,
        repository: Path,
        *,
        host: str = HOST,
        ports: Ports | None = None,
        log: Path | None = None,
        start_timeout_s: float = 120.0,
    ) -> None:
        self.repository = repository
        self.host = host
        self.ports = ports or Ports()
        self.log = log or cache_home() / "logs" / f"triton-{self.ports.grpc}.log"
        self.start_timeout_s = start_timeout_s
        #: Names every shared memory region of this server.
        self.prefix = f"coronanet-{os.getpid()}-{secrets.token_hex(4)}-"
        self._process: subprocess.Popen[bytes] | None = None
        self._index: RepositoryIndex | None = None

    @property
    def address(self) -> str:
        """``HOST:PORT`` of gRPC."""
        return _join(self.host, self.ports.grpc)

    @property
    def http_address(self) -> str:
        return _join(self.host, self.ports.http)

    @property
    def metrics_address(self) -> str:
        return _join(self.host, self.ports.metrics)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def check_machine(self) -> Installation:
        """What must hold before anything is started: Triton is installed, the address is loopback, the ports are free.

        Raises:
            UsageError: one of them does not hold.
        """
        installation = find_installation()
        check_host(self.host)
        check_ports(self.host, self.ports)
        return installation

    def start(self) -> None:
        """Start the server and wait for the canary's first answer; what was started is stopped where that fails."""
        installation = self.check_machine()
        self._index = read_index(self.repository)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        backends = link_backend(installation)
        command = self._command(installation, backends)
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        "-I",
                        "-S",
                        str(Path(__file__).with_name("launch.py")),
                        str(os.getpid()),
                        *command,
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment(installation),
                    # Model processes import from where they stand: never from a folder that anyone may have filled.
                    cwd=backends,
                    # Its own group: Ctrl-C in the terminal is ours to turn into an orderly stop.
                    start_new_session=True,
                )
            self._wait(self._process)
        except BaseException:
            self.stop()
            raise

    def check(self, timeout_s: float = CANARY_TIMEOUT_S) -> None:
        """The canary: one small inference through the whole ensemble.

        A model process that died leaves the server "ready", so nothing less tells whether it works.

        Raises:
            RefusedError: the server is gone, does not answer, or answers with other tensors than the ensemble's.
        """
        if self._process is None:
            raise RefusedError("the Triton server is not running")
        try:
            self._canary(timeout_s)
        except CoronanetError as failure:
            reason = str(failure)
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(1)  # a process that is just being killed takes a moment to be gone
                reason = f"it ended with exit code {code}: {last_error(self.log)}"
            raise RefusedError(f"the Triton server fails its canary inference: {reason}; its log: {self.log}") from None

    def _canary(self, timeout_s: float) -> None:
        tasks = self._index.bundles if self._index else {}
        image = np.full((1, CANARY_SIZE, CANARY_SIZE), CANARY_HU, dtype=np.int16)
        with TritonEngine(self.address, timeout_s=timeout_s) as engine:
            answer = engine.infer({"image": image})
        expected = {
            spec.name: (spec.dtype, image.shape if len(spec.shape) == image.ndim else (1, *spec.shape[1:]))
            for spec in map(ensemble_output, tasks)
        }
        received = {name: (str(array.dtype), array.shape) for name, array in answer.items()}
        if received != expected:
            raise RefusedError(f"expected {expected}, got {received}")

    def stop(self) -> None:
        """End the server and its model processes, and take away what they leave in memory."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                try:
                    self._process.wait(EXIT_TIMEOUT_S + 5)
                except subprocess.TimeoutExpired:
                    self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            _kill_group(self._process.pid)
            self._process = None
        for region in SHM.glob(f"{self.prefix}*"):
            region.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.stop()

    def _wait(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while True:
            try:
                return self._canary(CANARY_TIMEOUT_S)
            except RefusedError as error:
                raise RefusedError(f"the Triton server answers wrongly: {error}; its log: {self.log}") from None
            except UsageError as error:
                if process.poll() is not None:
                    reason = last_error(self.log)
                elif time.monotonic() > deadline:
                    reason = f"not ready after {self.start_timeout_s:g} s: {error}"
                else:
                    time.sleep(0.1)
                    continue
                raise RefusedError(f"the Triton server did not start: {reason}; its log: {self.log}") from None

    def _command(self, installation: Installation, backends: Path) -> list[str]:
        options = {
            "model-repository": self.repository.resolve(),
            "backend-directory": backends,
            "cache-directory": installation.caches,
            "http-address": self.host,
            "grpc-address": self.host,
            "metrics-address": self.host,
            "http-port": self.ports.http,
            "grpc-port": self.ports.grpc,
            "metrics-port": self.ports.metrics,
            "allow-gpu-metrics": "false",
            "exit-timeout-secs": EXIT_TIMEOUT_S,
        }
        if self._index is not None and self._index.response_cache_mib:
            options["cache-config"] = f"local,size={self._index.response_cache_mib * 2**20}"
        python = {
            "shm-default-byte-size": SHM_BYTES,
            "shm-growth-byte-size": SHM_BYTES,
            "shm-region-prefix-name": self.prefix,
        }
        return [
            str(installation.binary),
            "--disable-auto-complete-config",
            *(f"--{name}={value}" for name, value in options.items()),
            *(f"--backend-config=python,{name}={value}" for name, value in python.items()),
        ]


def check_host(host: str) -> None:
    """Refuse an address that other machines could reach.

    Raises:
        UsageError: ``host`` is not a loopback address.
    """
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass
    raise UsageError(f"the embedded server listens on loopback only: expected --host {HOST}, got {host}")


def check_ports(host: str, ports: Ports) -> None:
    """Refuse ports that something listens on.

    Raises:
        UsageError: a port is in use; names it and the option that moves it.
    """
    for name in ("http", "grpc", "metrics"):
        port: int = getattr(ports, name)
        with socket.socket(_family(host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise UsageError(
                    f"port {port} on {host} cannot be used ({os.strerror(error.errno or 0)}): "
                    f"stop what listens there, or choose another with --{name}-port"
                ) from None


def last_error(log: Path) -> str:
    """Why the server failed, in one line, from its log."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    errors = [line.split("] ", 1)[-1].strip('"') for line in lines if re.match(r"E\d{4} ", line)]
    reasons = [line for line in errors if not line.startswith(NO_GPU)] or [line for line in lines if line]
    if not reasons:
        return "it said nothing"
    # A model's own error comes with the name of the exception before it and with a traceback behind.
    return re.sub(r"^(ERROR: )?(Failed to create instance: )?(TritonModelException: )?", "", reasons[0]).split("\\n")[0]


def _kill_group(group: int) -> None:
    """End what is left of a process group, such as model processes whose server was killed."""
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    try:
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            time.sleep(0.02)
    except ProcessLookupError:
        return


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
