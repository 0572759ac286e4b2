"""Closed-loop load: a number of streams, each with its own engine, that ask again as soon as they are answered."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from ..engines.base import Engine, Tensors
from .timing import NS_PER_S, Samples


@dataclass(frozen=True)
class LoadPlan:
    """How several targets are loaded in turns: every round one burst each.

    Attributes:
        requests: requests to each target, at least.
        limit_s: what all bursts together may take, in seconds; at the limit a burst sends no more.
    """

    requests: int
    limit_s: float
    rounds: int = 5

    def burst(self, concurrency: int) -> int:
        """Requests in a burst: the same number for every stream and enough that the ragged end weighs little."""
        per_stream = -(-self.requests // (self.rounds * concurrency))
        return concurrency * max(4, per_stream)


@dataclass(frozen=True)
class Block:
    """One burst of load: durations in nanoseconds of the requests that were answered, and the failures of the rest.

    ``wall_ns`` runs from the first request's start to the last one's end.
    """

    latencies_ns: tuple[int, ...]
    errors: tuple[str, ...]
    wall_ns: int

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
        return sum(len(block.latencies_ns) + len(block.errors) for block in self.blocks)

    @property
    def errors(self) -> dict[str, int]:
        """How often each failure came."""
        return dict(Counter(error for block in self.blocks for error in block.errors))

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

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
        own = (f"failures: {self.failed} of {self.requests} requests",) if self.failed else ()
        samples = self.samples
        return own + (samples.warnings if samples else ())


@dataclass(frozen=True)
class _Request:
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
        futures = [
            thread.submit(burst.drive, engine) for thread, engine in zip(self._threads, self._engines, strict=True)
        ]
        try:
            sent = [request for future in futures for request in future.result()]
        finally:
            burst.stop.set()
        return _block(sent)

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


def _send(engine: Engine, feeds: Tensors) -> _Request:
    start_ns = time.perf_counter_ns()
    error = None
    try:
        engine.infer(feeds)
    except Exception as failure:  # whatever a request dies of is a result of the measurement, and is shown
        error = f"{type(failure).__name__}: {' '.join(str(failure).split())}"
    return _Request(start_ns, time.perf_counter_ns(), error)


def _block(sent: list[_Request]) -> Block:
    return Block(
        latencies_ns=tuple(request.end_ns - request.start_ns for request in sent if request.error is None),
        errors=tuple(request.error for request in sent if request.error is not None),
        wall_ns=max(request.end_ns for request in sent) - min(request.start_ns for request in sent) if sent else 0,
    )
