"""The embedded Triton server: NVIDIA's binary from the ``nvidia-pytriton`` wheel, on loopback, no GPU, no container.

The server is two years old and meant for development, CI and a single workstation; production is NVIDIA's container.
"""

import importlib.metadata
import importlib.util
import ipaddress
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ..engines.places import cache_home
from ..engines.predictor import ensemble_output
from ..engines.triton_engine import TritonEngine
from ..model.errors import MissingPackageError, RefusedError, UsageError
from .repository import RepositoryIndex, read_index

HOST = "127.0.0.1"
SHM = Path("/dev/shm")  # noqa: S108 - POSIX shared memory, not a temporary file
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
#: A region for each model process; it grows when a tensor needs more, and containers have 64 MiB in all by default.
SHM_BYTES = 2**20
EXIT_TIMEOUT_S = 5
#: Triton logs this error on every machine without a GPU.
NO_GPU = "CudaDriverHelper"
CANARY_TIMEOUT_S = 10.0
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


@dataclass(frozen=True)
class Installation:
    """Where the wheel put what Triton needs."""

    binary: Path
    backend: Path
    stub: Path
    caches: Path
    libraries: tuple[Path, ...]


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
        self._work: Path | None = None

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
        installation = self.check_machine()
        self._index = read_index(self.repository)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._work = Path(tempfile.mkdtemp(prefix="coronanet-triton-"))
        try:
            command = self._command(installation, _link_backend(installation, self._work))
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
                    env=_environment(installation),
                    # Its own group: Ctrl-C in the terminal is ours to turn into an orderly stop.
                    start_new_session=True,
                )
            self._wait()
        except BaseException:
            self.stop()
            raise

    def check(self, timeout_s: float = CANARY_TIMEOUT_S) -> None:
        """The canary: one small inference through the whole ensemble.

        A model process that died leaves the server "ready", so nothing less tells whether it works.

        Raises:
            RefusedError: the server is gone, does not answer, or answers with other tensors than the ensemble's.
        """
        if self._process is None or self._index is None:
            raise RefusedError("the Triton server is not running")
        if (code := self._process.poll()) is not None:
            raise RefusedError(
                f"the Triton server ended (exit code {code}): {last_error(self.log)}; its log: {self.log}"
            )
        image = np.full((1, CANARY_SIZE, CANARY_SIZE), CANARY_HU, dtype=np.int16)
        try:
            with TritonEngine(self.address, timeout_s=timeout_s) as engine:
                answer = engine.infer({"image": image})
        except UsageError as error:
            raise RefusedError(f"the Triton server fails its canary inference: {error}; its log: {self.log}") from None
        expected = {
            spec.name: (spec.dtype, tuple(image.shape if len(spec.shape) == image.ndim else (1, *spec.shape[1:])))
            for spec in map(ensemble_output, self._index.bundles)
        }
        received = {name: (str(array.dtype), array.shape) for name, array in answer.items()}
        if received != expected:
            raise RefusedError(f"the canary inference expected {expected}, got {received}; its log: {self.log}")

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
        if self._work is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._work = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        while self._process is not None:
            try:
                self.check()
            except RefusedError as error:
                if self._process.poll() is not None:
                    reason = last_error(self.log)
                    raise RefusedError(f"the Triton server did not start: {reason}; its log: {self.log}") from None
                if time.monotonic() > deadline:
                    raise RefusedError(f"not ready after {self.start_timeout_s:g} s: {error}") from None
                time.sleep(0.1)
            else:
                return

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


def find_installation() -> Installation:
    """Triton's files in the ``nvidia-pytriton`` wheel, which is never imported.

    Raises:
        MissingPackageError: the wheel is not installed.
        UsageError: numpy 2 or newer, or a Python that Triton has no stub or no library for.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError("nvidia-pytriton", purpose="the embedded Triton server", extra="serve")
    if int(importlib.metadata.version("numpy").split(".")[0]) >= 2:
        raise UsageError(
            f"the embedded Triton server needs numpy below 2 (newer ones corrupt its tensors silently), "
            f"found {importlib.metadata.version('numpy')}: pip install 'numpy<2'"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    root = package / "tritonserver"
    stub = root / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise UsageError(f"the embedded Triton server has no model process for Python {PYTHON}: use Python 3.11")
    return Installation(
        binary=root / "bin" / "tritonserver",
        backend=root / "backends" / "python",
        stub=stub,
        caches=root / "caches",
        libraries=(_python_library_folder(), package.parent / "nvidia_pytriton.libs"),
    )


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


def _python_library_folder() -> Path:
    """Where this interpreter's shared library is, which the model processes load."""
    name = f"libpython{PYTHON}.so.1.0"
    folders = [sysconfig.get_config_var(key) for key in ("LIBDIR", "LIBPL")]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    candidates = [Path(folder) for folder in folders if folder]
    candidates += [folder / multiarch for folder in candidates if multiarch]
    for folder in candidates:
        if (folder / name).exists():
            return folder
    raise UsageError(
        f"the embedded Triton server needs {name}, which is not in {candidates[0]}: install it "
        f"(Debian: libpython{PYTHON}), or use a Python that was built with --enable-shared"
    )


def _environment(installation: Installation) -> dict[str, str]:
    libraries = ":".join(str(folder) for folder in installation.libraries)
    # The model processes take the `python3` that they find first, and with it this environment's packages.
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return {**os.environ, "LD_LIBRARY_PATH": libraries, "PATH": path}


def _link_backend(installation: Installation, work: Path) -> Path:
    """A backend folder that holds the stub of this Python's version beside the rest."""
    backends = work / "backends"
    python = backends / "python"
    python.mkdir(parents=True)
    names = ("libtriton_python.so", "triton_python_backend_utils.py")
    for file in (*(installation.backend / name for name in names), installation.stub):
        (python / file.name).symlink_to(file)
    return backends


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
