"""Load from a number of streams, each with its own engine.

In a closed loop a stream asks again as soon as it is answered. In an open loop requests leave when a schedule says so,
whether or not those before them were answered, and a request's latency counts from the moment it was meant to leave: a
server that stalls is charged for every request that it kept waiting, not only for those that got through.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

import numpy as np

from ..engines.base import Engine, Tensors
from .timing import NS_PER_MS, NS_PER_S, Samples

#: An open loop gives up on what it has not sent when this many times the length of its schedule has gone by.
PATIENCE = 2.0
#: How far behind its schedule, as a share of its length, a server may be at its end that still keeps up with it.
BEHIND = 0.05
#: The last request of a schedule takes its time too: at most so many times that of the quickest, which waited least.
LAST = 3.0
#: Requests that open a burst of an open loop and are not counted, so that whatever went to sleep is awake.
SETTLE = 4


@dataclass(frozen=True)
class Arrivals:
    """When the requests of an open loop are meant to leave: a Poisson process, drawn anew every round from one seed.

    The draw of a round is the same for every rate, only stretched, so that rates differ in nothing else.

    Attributes:
        seconds: how long requests leave at each rate, over all rounds.
        streams: the largest number of requests in flight; beyond it they leave late, which counts as latency.
    """

    seconds: float
    seed: int = 0
    streams: int = 32

    def schedule(self, rate_per_s: float, turn: int, turns: int) -> tuple[int, ...]:
        """When each request of round ``turn`` of ``turns`` leaves, in nanoseconds after the start; maybe none."""
        length_s = self.seconds / turns
        draws = np.random.default_rng([self.seed, turn])
        expected = rate_per_s * length_s
        # Ten standard deviations more than expected: gaps that never run out before the time does.
        times = np.cumsum(draws.exponential(size=int(expected + 10 * expected**0.5) + 10)) / rate_per_s
        return tuple(int(time_s * NS_PER_S) for time_s in times[times < length_s])


@dataclass(frozen=True)
class LoadPlan:
    """How several targets are loaded in turns: every round one burst each.

    Attributes:
        requests: requests to each target of a closed loop, at least.
        limit_s: what all bursts of closed loops together may take, in seconds; at the limit a burst sends no more.
        arrivals: how requests leave where a rate is asked for, else None.
    """

    requests: int
    limit_s: float
    rounds: int = 5
    arrivals: Arrivals | None = None

    def burst(self, concurrency: int) -> int:
        """Requests in a burst: the same number for every stream and enough that the ragged end weighs little."""
        per_stream = -(-self.requests // (self.rounds * concurrency))
        return concurrency * max(4, per_stream)


@dataclass(frozen=True)
class Block:
    """One burst of load: durations in nanoseconds of the requests that were answered, and the failures of the rest.

    ``wall_ns`` runs from the first request's start to the last one's end; in an open loop from the start of the
    schedule to its end, or to the last answer where that came later. There, ``length_ns`` is how long the schedule is,
    ``delays_ns`` how late each request that was sent left, which its latency has in it, and ``unsent`` counts those
    that were given up on.
    """

    latencies_ns: tuple[int, ...]
    errors: tuple[str, ...]
    wall_ns: int
    length_ns: int = 0
    delays_ns: tuple[int, ...] = ()
    unsent: int = 0

    def throughput_per_s(self, items: int) -> float:
        """Slices answered a second; a failed request counts for nothing but the time that it took."""
        return items * len(self.latencies_ns) * NS_PER_S / max(1, self.wall_ns)


@dataclass(frozen=True)
class Load:
    """All bursts of one target at one concurrency; ``items`` is the number of slices a request carries."""

    blocks: tuple[Block, ...]
    concurrency: int
    items: int = 1

    @property
    def samples(self) -> Samples | None:
        """The latencies of the answered requests, or None where none was answered."""
        latencies = tuple(latency for block in self.blocks for latency in block.latencies_ns)
        return Samples(latencies, self.items) if latencies else None

    @property
    def requests(self) -> int:
        return sum(len(block.latencies_ns) + len(block.errors) + block.unsent for block in self.blocks)

    @property
    def errors(self) -> dict[str, int]:
        """How often each failure came."""
        return dict(Counter(error for block in self.blocks for error in block.errors))

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def unsent(self) -> int:
        return sum(block.unsent for block in self.blocks)

    @property
    def kept_up(self) -> bool:
        """Whether all that was asked for was answered, in an open loop in about the time that it was asked in.

        What the last request of a burst takes is not counted: the median latency, unless that has waiting in it which
        only a queue that grows explains.
        """
        samples = self.samples
        if samples is None or self.unsent or self.failed:
            return False
        asked_ns = sum(block.length_ns for block in self.blocks)
        last_ns = min(samples.p50_ms * NS_PER_MS, LAST * min(samples.durations_ns))
        late_ns = self.wall_ns - asked_ns - len(self.blocks) * last_ns
        return not asked_ns or late_ns <= BEHIND * asked_ns

    @property
    def wall_ns(self) -> int:
        return sum(block.wall_ns for block in self.blocks)

    @property
    def throughput_per_s(self) -> float:
        """Slices answered a second over all bursts."""
        answered = sum(len(block.latencies_ns) for block in self.blocks)
        return self.items * answered * NS_PER_S / max(1, self.wall_ns)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader must know before believing these numbers, one sentence each."""
        own: list[str] = []
        if not self.requests:
            own.append("too few: not one request fell into the time measured at this rate, raise --seconds")
        if self.failed:
            own.append(f"failures: {self.failed} of {self.requests} requests")
        if self.unsent:
            own.append(
                f"overload: {self.unsent} of {self.requests} requests were never sent, so latency is worse still"
            )
        samples = self.samples
        return (*own, *(samples.warnings if samples else ()))


@dataclass(frozen=True)
class _Request:
    """``due_ns`` is when the request was meant to leave: in a closed loop, when it did."""

    due_ns: int
    start_ns: int
    end_ns: int
    error: str | None


class Streams:
    """Engines that wait for load, each with a thread of its own, open for the length of a ``with`` block.

    Args:
        open_engine: opens one engine (for a server: one connection); called once a stream.
        concurrency: number of streams.
        feeds: what every request sends.

    Raises:
        CoronanetError: as ``open_engine`` does; streams that were already open are closed.
    """

    def __init__(self, open_engine: Callable[[], Engine], concurrency: int, feeds: Tensors) -> None:
        self._feeds = feeds
        with ExitStack() as stack:
            # Threads end before the engines that they use are closed.
            self._engines = [stack.enter_context(open_engine()) for _ in range(concurrency)]
            # A thread a stream, kept between bursts: some backends build their worker threads anew for every caller.
            self._threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(concurrency)]
            self._stack = stack.pop_all()

    @property
    def concurrency(self) -> int:
        return len(self._engines)

    def run(self, requests: int, limit_s: float) -> Block:
        """Send ``requests`` requests, all streams together; none starts after ``limit_s`` seconds.

        Every stream makes one request that is not counted before it, and all start together.
        """
        tickets: SimpleQueue[int] = SimpleQueue()
        for number in range(requests):
            tickets.put(number)
        burst = _Burst(self._feeds, tickets, limit_s, gate=threading.Barrier(self.concurrency), stop=threading.Event())
        sent = self._all(burst.drive, burst.stop)
        wall_ns = max(request.end_ns for request in sent) - min(request.start_ns for request in sent) if sent else 0
        return Block(_latencies(sent), _errors(sent), wall_ns)

    def play(self, schedule: Sequence[int], length_s: float) -> Block:
        """Send a request whenever the schedule says so, in nanoseconds after the start, in order.

        ``SETTLE`` requests that are not counted come before it. What is left of the schedule when ``PATIENCE`` times
        its length has gone by is given up.

        Args:
            length_s: seconds that the schedule is of, which may end after its last request.
        """
        playing = _Playing(
            self._feeds,
            schedule,
            round(length_s * NS_PER_S),
            settling=count(),
            turns=count(),
            gate=threading.Barrier(self.concurrency + 1),
            stop=threading.Event(),
        )
        sent = self._all(playing.drive, playing.stop, playing.begin)
        start_ns = playing.started[0]
        end_ns = max([start_ns + playing.length_ns, *(request.end_ns for request in sent)])
        return Block(
            _latencies(sent),
            _errors(sent),
            end_ns - start_ns,
            length_ns=playing.length_ns,
            delays_ns=tuple(request.start_ns - request.due_ns for request in sent),
            unsent=len(schedule) - len(sent),
        )

    def _all(
        self,
        drive: Callable[[Engine], list[_Request]],
        stop: threading.Event,
        begin: Callable[[], object] = lambda: None,
    ) -> list[_Request]:
        """What all streams sent, each in its own thread, in the order in which requests were meant to leave."""
        futures = [thread.submit(drive, engine) for thread, engine in zip(self._threads, self._engines, strict=True)]
        try:
            begin()
            sent = [request for future in futures for request in future.result()]
        finally:
            stop.set()
        return sorted(sent, key=lambda request: request.due_ns)

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Burst:
    """What the streams of a burst share: a ticket a request, the gate they start from, the sign to stop early."""

    feeds: Tensors
    tickets: "SimpleQueue[int]"
    limit_s: float
    gate: threading.Barrier
    stop: threading.Event

    def drive(self, engine: Engine) -> list[_Request]:
        _send(engine, self.feeds)
        self.gate.wait()
        deadline_ns = time.perf_counter_ns() + round(self.limit_s * NS_PER_S)
        sent: list[_Request] = []
        while not self.stop.is_set() and (not sent or time.perf_counter_ns() < deadline_ns):
            try:
                self.tickets.get_nowait()
            except Empty:
                break
            sent.append(_send(engine, self.feeds))
        return sent


@dataclass(frozen=True)
class _Playing:
    """What the streams share that play a schedule: whose turn it is, and the gate that the start waits behind."""

    feeds: Tensors
    schedule: Sequence[int]
    length_ns: int
    settling: "count[int]"
    turns: "count[int]"
    gate: threading.Barrier
    stop: threading.Event
    started: list[int] = field(default_factory=list)

    def begin(self) -> None:
        """Wait until what is not counted was answered, then start the clock."""
        try:
            self.gate.wait()
            self.started.append(time.perf_counter_ns())
            self.gate.wait()
        except BaseException:
            # Interrupted: nobody must wait for a start that never comes.
            self.gate.abort()
            raise

    def drive(self, engine: Engine) -> list[_Request]:
        if next(self.settling) < SETTLE:
            _send(engine, self.feeds)
        self.gate.wait()
        self.gate.wait()
        (start_ns,) = self.started
        give_up_ns = start_ns + round(PATIENCE * self.length_ns)
        sent: list[_Request] = []
        # next() of a count is atomic: every place of the schedule goes to one stream.
        while not self.stop.is_set() and (turn := next(self.turns)) < len(self.schedule):
            due_ns = start_ns + self.schedule[turn]
            while (wait_ns := due_ns - time.perf_counter_ns()) > 0 and not self.stop.is_set():
                self.stop.wait(wait_ns / NS_PER_S)
            if time.perf_counter_ns() < give_up_ns:
                sent.append(_send(engine, self.feeds, due_ns))
        return sent


def _send(engine: Engine, feeds: Tensors, due_ns: int | None = None) -> _Request:
    start_ns = time.perf_counter_ns()
    error = None
    try:
        engine.infer(feeds)
    except Exception as failure:  # whatever a request dies of is a result of the measurement, and is shown
        error = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
    return _Request(start_ns if due_ns is None else due_ns, start_ns, time.perf_counter_ns(), error)


def _latencies(sent: Sequence[_Request]) -> tuple[int, ...]:
    return tuple(request.end_ns - request.due_ns for request in sent if request.error is None)


def _errors(sent: Sequence[_Request]) -> tuple[str, ...]:
    return tuple(request.error for request in sent if request.error is not None)
