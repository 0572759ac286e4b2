"""Keeps a server well overnight: a dead model is brought back, else the server is restarted, else there is a clear end.

Four things are watched: whether the server process lives, whether every model has all its processes (Triton does not
restart one that died, and fails every request that meets its place), whether the canary gets the right answer, and
whether every process works while its model answers. A canary that is late or refused for want of room proves nothing
while the models get on with their work, see ``examination``.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import NoReturn, Protocol, Self

from ..engines.load_errors import first_line
from ..model.errors import CoronanetError, RefusedError
from .event_log import Emit
from .examination import Finding
from .hanging import Hanging
from .processes import ModelProcess

TICK_S = 0.5
#: Between the end of one examination and the start of the next.
WATCH_S = 5.0
#: For each model that is loaded again; as long as the whole server took to start, where that was longer.
RELOAD_S = 10.0
PAUSE_S, PAUSE_GROWTH = 2.0, 5
DYING_S = 0.2
#: A process whose model was loaded anew is ended once it has used no processor for so long, or after the longer time.
IDLE_S, RETIRED_S = 3.0, 120.0
IDLE_CPU_S = 0.05


@dataclass(frozen=True)
class Limits:
    """How much goes wrong before the next step is taken.

    Attributes:
        restarts: of the server, within ``window_s``; one more, and the watchdog gives up.
        reloads: of models, within ``window_s``; one more, and the server is restarted.
        strikes: findings in a row against the server as a whole that are believed.
        pause_s: between a restart that failed and the next, in seconds; five times as long each time, so that a
            repository that is being filled, or a disk that is being cleared, has a while.
    """

    restarts: int = 3
    reloads: int = 30
    strikes: int = 2
    window_s: float = 600.0
    reload_s: float = RELOAD_S
    pause_s: float = PAUSE_S
    watch_s: float = WATCH_S


class Watched(Protocol):
    """What the watchdog needs of a server; ``server.TritonServer`` has it."""

    @property
    def instances(self) -> Mapping[str, int]: ...
    @property
    def start_s(self) -> float: ...
    def ended(self, *, wait_s: float = 0) -> str: ...
    def examine(self) -> Finding: ...
    def model_processes(self) -> Sequence[ModelProcess]: ...
    def reload(self, models: tuple[str, ...], timeout_s: float) -> None: ...
    def restart(self) -> None: ...


class Watchdog:
    """Watches a server that is ready; a context manager.

    Args:
        server: the server; a model process that died since it became ready is missed too.
        emit: takes the events: ``well``, ``busy`` or ``sick`` after every examination; ``process_hangs``,
            ``model_died``, ``model_back``, ``reload_failed``, ``server_died``, ``restarting``, ``restarted``,
            ``restart_failed`` and ``gave_up``.
        limits: when the next step is taken.
    """

    def __init__(self, server: Watched, emit: Emit, limits: Limits = Limits()) -> None:
        self._server, self._emit, self._limits = server, emit, limits
        self._reloads = _Budget(limits.reloads, limits.window_s)
        self._restarts = _Budget(limits.restarts, limits.window_s)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="canary")
        self._begin()

    def _begin(self) -> None:
        """Start anew with what the server is now."""
        self._expected = Counter(self._server.instances)
        #: By the number of the process.
        self._retiring: dict[int, _Retired] = {}
        self._seen: dict[int, ModelProcess] = {}
        self._hanging = Hanging()
        self._strikes = 0
        #: Models that were found sick since the last time that all was well.
        self._suspected: set[str] = set()
        self._examination: Future[Finding] | None = None
        self._next_s = time.monotonic() + self._limits.watch_s

    def run(self, between: Callable[[], object] = lambda: None) -> NoReturn:
        """Watch until the server cannot be brought back.

        Args:
            between: called twice a second, from this thread.

        Raises:
            RefusedError: it was given up, and why.
        """
        while True:
            self.step()
            between()
            time.sleep(TICK_S)

    def step(self) -> None:
        """Look once, and do what is needed.

        Raises:
            RefusedError: the server was given up.
        """
        self._retire()
        dead = self._dead()
        # The processes of a server that is killed may be gone a moment before it is.
        if reason := self._server.ended(wait_s=DYING_S if dead else 0):
            self._emit("server_died", reason=reason)
            self._restart(reason)
        elif dead:
            self._emit("model_died", models=list(dead))
            self._bring_back(dead)
        elif finding := self._finding():
            self._act(finding)

    def _dead(self) -> tuple[str, ...]:
        """The models that lack a process, in the order of their names."""
        living = self._in_service()
        gone = self._seen.keys() - {process.pid for process in living} - self._retiring.keys()
        for pid in gone:
            self._seen.pop(pid).forget()
        self._seen.update({process.pid: process for process in living})
        return tuple(sorted(self._expected - Counter(process.model for process in living)))

    def _in_service(self) -> list[ModelProcess]:
        """The living processes but for those whose model was loaded anew."""
        return [process for process in self._server.model_processes() if process.pid not in self._retiring]

    def _bring_back(self, models: tuple[str, ...]) -> None:
        started = time.monotonic()
        if not self._reloads.take():
            self._restart(f"models died more than {self._limits.reloads} times in {self._limits.window_s:g} s")
            return
        before = [process for process in self._server.model_processes() if process.model in models]
        try:
            self._server.reload(models, max(self._limits.reload_s, self._server.start_s) * len(models))
        except (RefusedError, OSError) as error:
            self._emit("reload_failed", models=list(models), reason=str(error))
            self._restart(str(error))
            return
        # They still answer what was waiting for the model when it was loaded again.
        for process in before:
            self._retiring.setdefault(process.pid, _Retired(process))
        # What was asked meanwhile may have met a dead process.
        self._forget_examination()
        self._emit("model_back", models=list(models), seconds=round(time.monotonic() - started, 2))

    def _finding(self) -> Finding | None:
        """The result of an examination that has just ended; starts the next one when it is time."""
        running = self._examination
        if running is None:
            if time.monotonic() >= self._next_s:
                self._examination = self._worker.submit(self._server.examine)
            return None
        if not running.done():
            return None
        self._forget_examination()
        try:
            return running.result()
        except CoronanetError as error:
            return Finding("sick", 0.0, str(error))
        except Exception as error:  # whatever it is, nobody is there at night to read a traceback
            return Finding("sick", 0.0, f"the examination ended in {type(error).__name__}: {first_line(error)}")

    def _forget_examination(self) -> None:
        self._examination = None
        self._next_s = time.monotonic() + self._limits.watch_s

    def _act(self, finding: Finding) -> None:
        self._emit(
            finding.verdict, reason=finding.reason, models=list(finding.models), canary_ms=round(finding.took_s * 1000)
        )
        if finding.verdict != "sick":
            self._strikes = 0
            self._suspected.clear()
            for process in self._hanging.look(self._in_service(), finding.answered):
                self._emit("process_hangs", models=[process.model])
                process.kill()
        elif self._suspected.intersection(finding.models):
            self._restart(f"it was loaded again and is no better: {finding.reason}")
        elif finding.models:
            self._strikes = 0
            self._suspected.update(finding.models)
            # Without its processes a model is dead, and is brought back as any other.
            for process in self._server.model_processes():
                if process.model in finding.models:
                    process.kill()
        else:
            self._strikes += 1
            if self._strikes >= self._limits.strikes:
                self._restart(finding.reason)

    def _restart(self, reason: str) -> None:
        """Restart the server until it is well or the budget is spent.

        Raises:
            RefusedError: it is spent.
        """
        pause_s = 0.0
        while self._restarts.take():
            time.sleep(pause_s)
            started = time.monotonic()
            self._emit("restarting", reason=reason)
            try:
                self._server.restart()
            except (CoronanetError, OSError) as error:
                reason = str(error)
                self._emit("restart_failed", reason=reason)
                pause_s = pause_s * PAUSE_GROWTH or self._limits.pause_s
                continue
            self._emit("restarted", seconds=round(time.monotonic() - started, 2))
            self._begin()
            return
        self._emit("gave_up", reason=reason)
        limits = self._limits
        raise RefusedError(
            f"the server was given up after {limits.restarts} restarts in {limits.window_s / 60:g} minutes: {reason}"
        )

    def _retire(self) -> None:
        """End the old processes of models that were loaded again, once they have nothing left to do.

        Triton ends them itself, unless one of them is dead: then it waits for that one for ever.
        """
        for each in self._retiring.values():
            each.look()
            if each.is_done:
                each.process.kill()
        self._retiring = {pid: each for pid, each in self._retiring.items() if not each.is_gone}

    def close(self) -> None:
        self._worker.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


@dataclass
class _Retired:
    """An old process of a model that was loaded again."""

    process: ModelProcess
    since_s: float = field(default_factory=time.monotonic)
    _cpu_s: float = -1.0
    _worked_s: float = field(default_factory=time.monotonic)
    is_gone: bool = False

    def look(self) -> None:
        cpu_s = self.process.cpu_s
        if cpu_s is None:
            self.process.forget()
            self.is_gone = True
        elif cpu_s > self._cpu_s + IDLE_CPU_S:
            self._cpu_s, self._worked_s = cpu_s, time.monotonic()

    @property
    def is_done(self) -> bool:
        now = time.monotonic()
        return not self.is_gone and (now > self._worked_s + IDLE_S or now > self.since_s + RETIRED_S)


class _Budget:
    """So many times within so many seconds."""

    def __init__(self, times: int, window_s: float) -> None:
        self._window_s = window_s
        self._taken: deque[float] = deque(maxlen=times)
        self._times = times

    def take(self) -> bool:
        """Take one, if there is one."""
        now = time.monotonic()
        if len(self._taken) == self._times and (not self._times or now - self._taken[0] < self._window_s):
            return False
        self._taken.append(now)
        return True
