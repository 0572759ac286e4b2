"""The embedded Triton server: NVIDIA's binary from the ``nvidia-pytriton`` wheel, no GPU, no container.

The server is two years old and meant for development, CI and a single workstation; production is NVIDIA's container.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ..model.errors import RefusedError, UsageError
from ..model.tasks import TaskName
from .addresses import HOST, Ports, check_host, check_ports, family, here, is_loopback, join
from .canary import Canary
from .closed import closing_options
from .connections import end_reading
from .event_log import default_log
from .examination import CANARY_S, Finding, examine
from .installation import Installation, environment, find_installation, link_backend
from .leftovers import Run, reap
from .linter.filled import RepositoryIndex
from .probe import Probe, ProbeError
from .processes import ModelProcess, lives, model_processes
from .repository import read_index
from .snapshot import count_instances, mark_changed, take_snapshot

#: A region for each model process; it grows when a tensor needs more, and containers have 64 MiB in all by default.
SHM_BYTES = 2**20
START_TIMEOUT_S = 120.0
EXIT_TIMEOUT_S = 10
#: What Triton may take beyond its own exit timeout before it is killed.
EXIT_GRACE_S = 5.0
#: How long to wait for the counters of a server that is looked at again and again.
COUNTERS_S = 1.0
#: What Triton may take in all where it is to stop at once.
AT_ONCE_S = 2.0
#: No request is in flight where the models together used the processor for less than this in so long.
LULL_CPU_S, LULL_S = 0.05, 0.3
#: What Triton logs when it stops and no inference is in flight any more, and how long answers may be on their way then.
IDLE = "All models are stopped, unloading models"
FLUSH_S = 1.0
#: How often Triton looks whether a model was marked as changed; whole seconds.
POLL_S = 1
#: How often a port that was chosen as free may turn out to have been taken meanwhile.
PORT_TRIES = 3
#: Triton logs errors with these words on every machine without a GPU.
NO_GPU = ("CudaDriverHelper", "CUDA driver version")


class TritonServer:
    """A running server; a context manager that starts it, waits until the ensemble answers rightly, and stops it.

    Args:
        repository: a filled model repository; what is served is a snapshot of it.
        host: a loopback address, or with ``allow_remote`` any of this machine's.
        ports: where it listens.
        log: what Triton and the models print is appended there; None is a file in ``cache_home()``, one for each port.
        trace: where Triton writes the time stamps of requests, ``FILE.0`` and on, once a client of this machine asks
            it to trace (`coronanet bench waterfall`), which puts nothing of an image there; but any client of this
            machine could ask for the level ``TENSORS``, which writes pixels. None closes the trace to everybody.
        start_timeout_s: how long to wait for the first answer, in seconds.
        exit_timeout_s: how long requests that were accepted may take to finish when it stops, in whole seconds.
        allow_remote: whether other machines may reach it.

    Entering raises:
        MissingPackageError: Triton is not installed.
        UsageError: numpy 2 or newer, a port in use, an address that is not allowed, no filled repository.
        RefusedError: the repository is not as it was filled, the server did not start, or answered the canary wrongly.

    The server ends with the thread that started it, also when that is killed.
    """

    def __init__(
        self,
        repository: Path,
        *,
        host: str = HOST,
        ports: Ports | None = None,
        log: Path | None = None,
        trace: Path | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
        exit_timeout_s: int = EXIT_TIMEOUT_S,
        allow_remote: bool = False,
    ) -> None:
        self.repository = repository
        self.host = host
        self.allow_remote = allow_remote
        self.trace = trace
        self.start_timeout_s = start_timeout_s
        self.exit_timeout_s = exit_timeout_s
        self._wanted = self.ports = ports or Ports()
        self._log = log
        #: What it serves since it was last started: task -> hash of its bundle.
        self.bundles: Mapping[TaskName, str] = {}
        #: How many processes it was started with for each model.
        self.instances: Mapping[str, int] = {}
        #: How long its last start took, in seconds.
        self.start_s = 0.0
        #: Names every shared memory region of this server, also after it was stopped.
        self.prefix = ""
        self._run: Run | None = None
        self._snapshot: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._probe: Probe | None = None
        self._canary: Canary | None = None
        self._log_start = 0

    @property
    def log(self) -> Path:
        return self._log or default_log(self.ports.grpc)

    @property
    def address(self) -> str:
        """``HOST:PORT`` of gRPC."""
        return join(self.host, self.ports.grpc)

    @property
    def http_address(self) -> str:
        return join(self.host, self.ports.http)

    @property
    def metrics_address(self) -> str:
        return join(self.host, self.ports.metrics)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def check_machine(self) -> Installation:
        """What must hold before anything is started: Triton is installed, the address is allowed, the ports are free.

        Ports that were left open are chosen here. A trace needs loopback.

        Raises:
            UsageError: one of them does not hold.
        """
        installation = find_installation()
        check_host(self.host, allow_remote=self.allow_remote)
        if self.trace is not None and not is_loopback(self.host):
            raise UsageError(
                f"--trace lets every client have pixels written to a file: expected a --host such as {HOST} with it, "
                f"got {self.host}"
            )
        try:
            check_ports(self.host, self.ports)
        except UsageError:
            if self.ports == self._wanted:
                raise
            # One that was chosen was free then, and has been taken since.
            self.ports = self._wanted
            check_ports(self.host, self.ports)
        self.ports = self.ports.chosen(self.host)
        return installation

    def start(self) -> None:
        """Start the server and wait for the canary's first answer; what was started is stopped where that fails."""
        if self.trace is not None:
            self.trace.parent.mkdir(parents=True, exist_ok=True)
        index = read_index(self.repository)
        reap()
        for tries_left in reversed(range(PORT_TRIES)):
            installation = self.check_machine()
            try:
                self._start(installation, index)
                return
            except RefusedError as error:
                if not (tries_left and self._wanted.is_open and "already in use" in str(error)):
                    raise
                self.ports = self._wanted

    def _start(self, installation: Installation, index: RepositoryIndex) -> None:
        started = time.monotonic()
        try:
            self._run = Run.begin()
            self.prefix = self._run.prefix
            self._snapshot = take_snapshot(self.repository, index, self._run.folder)
            self.bundles, self.instances = index.bundles, count_instances(self._snapshot)
            self._spawn(installation, self._run, self._snapshot, index.response_cache_mib)
            # Triton starts meanwhile.
            self._canary = Canary.of(self._snapshot)
            self._wait()
            self.start_s = time.monotonic() - started
        except BaseException:
            self.stop(at_once=True)
            raise

    def _spawn(self, installation: Installation, run: Run, snapshot: Path, response_cache_mib: int) -> None:
        backends = link_backend(installation)
        command = self._command(installation, backends, snapshot, response_cache_mib)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(installation),
                # Model processes import from where they stand: never from a folder that anyone may have filled.
                cwd=backends,
                # Its own group: Ctrl-C in the terminal is ours to turn into an orderly stop.
                start_new_session=True,
                pass_fds=(run.lock,),
            )

    def check(self, timeout_s: float = CANARY_S) -> None:
        """The canary: one small inference through the whole ensemble, and whether its answer is right.

        A model process that died leaves the server "ready", so nothing less tells whether it works.

        Raises:
            RefusedError: the server is gone, does not answer, or answers wrongly.
        """
        canary, probe = self._running()
        if failed := canary.first_failure(probe, timeout_s):
            reason = self.ended(wait_s=1) or str(failed[1])
            raise RefusedError(f"the Triton server fails its canary inference: {reason}; its log: {self.log}")

    def examine(self) -> Finding:
        """The canary and, where it fails, which model is to blame.

        Raises:
            RefusedError: the server is not running.
        """
        return examine(*self._running())

    def ended(self, *, wait_s: float = 0) -> str:
        """Why the server process has ended, in one line; empty while it runs.

        Args:
            wait_s: how long to wait for that, in seconds: a process that is being killed takes a moment to be gone.
        """
        if self._process is None:
            return "it is not running"
        try:
            code = self._process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return ""
        # One that was killed said nothing about it.
        why = f": {last_error(self.log, self._log_start)}" if code >= 0 else ""
        return f"it ended with exit code {code}{why}"

    def model_processes(self) -> tuple[ModelProcess, ...]:
        """The living processes that run the models."""
        return model_processes(self._process.pid) if self._process else ()

    def reload(self, models: tuple[str, ...], timeout_s: float) -> None:
        """Have models loaded again, with new processes; requests go to the old ones until the new ones are ready.

        Args:
            models: their names.
            timeout_s: how long that may take, in seconds.

        Raises:
            RefusedError: they were not loaded in time, or could not be.
        """
        snapshot = self._snapshot
        if snapshot is None:
            raise RefusedError("the Triton server is not running")
        deadline = time.monotonic() + timeout_s
        start, before = _size(self.log), self._answered()
        for model in models:
            mark_changed(snapshot, model)
        waiting = set(models)
        while waiting:
            text = _read(self.log, start)
            if failed := [model for model in models if f"failed to load '{model}'" in text]:
                raise RefusedError(f"{failed[0]} cannot be loaded: {last_error(self.log, start)}")
            if reason := self.ended():
                raise RefusedError(reason)
            if time.monotonic() > deadline:
                raise RefusedError(f"{', '.join(sorted(waiting))} not loaded within {timeout_s:g} s")
            now = self._answered()
            # Its counters begin anew, which also tells where the disk under the log is full.
            anew = {model for model in waiting if now.get(model, before.get(model, 0)) < before.get(model, 0)}
            waiting = {model for model in waiting - anew if f"successfully loaded '{model}'" not in text}
            time.sleep(0.05)

    def _answered(self) -> Mapping[str, int]:
        """How many requests each model has answered; nothing where the server does not say soon."""
        try:
            return self._running()[1].answered(COUNTERS_S)
        except ProbeError:
            return {}

    def restart(self) -> None:
        """Stop what is left of the server, at once, and start it on the same ports.

        Raises:
            CoronanetError: as starting it does.
        """
        self._wanted = self.ports
        self.stop(at_once=True)
        self.start()

    def stop(self, *, at_once: bool = False) -> None:
        """End the server when it has finished what it accepted, and take away what it leaves in memory and on disk.

        Requests that come meanwhile are accepted too; clients that go on asking are cut off after ``exit_timeout_s``.

        Args:
            at_once: whether requests may be cut off between two steps, and a Triton that hangs is soon killed.
        """
        if self._probe is not None:
            self._probe.close()
            self._probe = None
        if self._process is not None:
            if self._process.poll() is None:
                self._end(self._process, at_once=at_once)
            self._process.wait()
            _kill_group(self._process.pid)
            self._process = None
        if self._run is not None:
            self._run.end()
            self._run = self._snapshot = None

    def _end(self, process: "subprocess.Popen[bytes]", *, at_once: bool) -> None:
        start = _size(self.log)
        deadline = time.monotonic() + (AT_ONCE_S if at_once else self.exit_timeout_s + EXIT_GRACE_S)
        if not at_once:
            self._finish(deadline - EXIT_GRACE_S)
        process.send_signal(signal.SIGTERM)
        now = time.monotonic()
        while now < deadline:
            end_reading(process.pid, self.ports.http)
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
                return
            now = time.monotonic()
            if IDLE in _read(self.log, start):
                # All that is left is to unload models, which takes seconds, and where a process is dead, for ever.
                deadline = min(deadline, now + FLUSH_S)
        process.send_signal(signal.SIGKILL)

    def _finish(self, deadline: float) -> None:
        """Wait until no request is in flight, at most until ``deadline``.

        Triton stops all models at once, and refuses a request that it accepted its next step.
        """
        used_s = self._cpu_s()
        while time.monotonic() < deadline:
            time.sleep(LULL_S)
            before_s, used_s = used_s, self._cpu_s()
            if used_s - before_s < LULL_CPU_S:
                return

    def _cpu_s(self) -> float:
        """The processor time that the living model processes have used, in seconds."""
        return sum(process.cpu_s or 0 for process in self.model_processes())

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.stop()

    def _running(self) -> tuple[Canary, Probe]:
        if self._canary is None or self._probe is None:
            raise RefusedError("the Triton server is not running")
        return self._canary, self._probe

    def _wait(self) -> None:
        """Until every port takes connections and the ensemble gives the right answer."""
        deadline = time.monotonic() + self.start_timeout_s
        reason = "nothing listens yet"
        while True:
            if ended := self.ended():
                raise RefusedError(f"the Triton server did not start: {ended}; its log: {self.log}")
            if time.monotonic() > deadline:
                raise RefusedError(
                    f"the Triton server was not ready after {self.start_timeout_s:g} s: {reason}; its log: {self.log}"
                )
            if not self._listens():
                time.sleep(0.05)
                continue
            self._probe = self._probe or Probe(join(here(self.host), self.ports.grpc))
            failed = self._running()[0].first_failure(self._probe, CANARY_S)
            if failed is None:
                return
            _, error = failed
            if error.kind == "wrong":
                raise RefusedError(f"the Triton server answers wrongly: {error}; its log: {self.log}")
            reason = str(error)
            time.sleep(0.1)

    def _listens(self) -> bool:
        for port in (self.ports.http, self.ports.grpc, self.ports.metrics):
            try:
                socket.create_connection((here(self.host), port), timeout=1).close()
            except OSError:
                return False
        return True

    def _command(
        self, installation: Installation, backends: Path, snapshot: Path, response_cache_mib: int
    ) -> list[str]:
        # Triton's two kinds of port want an IPv6 address written each in its own way.
        is_v6 = family(self.host) is socket.AF_INET6
        http, grpc = (f"ipv6:{self.host}", f"[{self.host}]") if is_v6 else (self.host, self.host)
        options = {
            "model-repository": snapshot.resolve(),
            # Nobody can load or unload a model over the network, and with it code of their own, as the other way to
            # have a model loaded again would allow.
            "model-control-mode": "poll",
            "repository-poll-secs": POLL_S,
            "backend-directory": backends,
            "cache-directory": installation.caches,
            "http-address": http,
            "grpc-address": grpc,
            "metrics-address": http,
            "http-port": self.ports.http,
            "grpc-port": self.ports.grpc,
            "metrics-port": self.ports.metrics,
            "allow-gpu-metrics": "false",
            "exit-timeout-secs": self.exit_timeout_s,
        }
        if response_cache_mib:
            options["cache-config"] = f"local,size={response_cache_mib * 2**20}"
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
            *closing_options(trace=self.trace is not None),
            *([f"--trace-config=triton,file={self.trace.resolve()}"] if self.trace else []),
        ]


def last_error(log: Path, start: int = 0) -> str:
    """Why the server failed, in one line, from what stands in its log behind ``start`` bytes."""
    lines = _read(log, start).splitlines()
    errors = [line.split("] ", 1)[-1].strip('"') for line in lines if re.match(r"E\d{4} ", line)]
    reasons = [line for line in errors if not any(words in line for words in NO_GPU)] or [
        line for line in lines if line
    ]
    if not reasons:
        return "it said nothing"
    # A model's own error comes with the name of the exception before it and with a traceback behind.
    return re.sub(r"^(ERROR: )?(Failed to create instance: )?(TritonModelException: )?", "", reasons[0]).split("\\n")[0]


def _size(log: Path) -> int:
    """In bytes; 0 where somebody has taken it away."""
    return log.stat().st_size if log.is_file() else 0


def _read(log: Path, start: int) -> str:
    """A log behind ``start`` bytes; the whole of one that was emptied since."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(start if start <= log.stat().st_size else 0)
        return file.read().decode(errors="replace")


def _kill_group(group: int) -> None:
    """End what is left of a process group, such as model processes whose server was killed."""
    deadline = time.monotonic() + EXIT_GRACE_S
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(group, signal.SIGKILL)
            if not lives(group):
                return
            time.sleep(0.02)
