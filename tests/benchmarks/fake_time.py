"""A clock that a test moves, so that what the machine does meanwhile is not what is tested."""

import threading
from collections.abc import Callable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from coronanet.benchmarks import load
from coronanet.benchmarks.peers import PeerEngine
from coronanet.benchmarks.timing import NS_PER_S, interleave, warm_up
from coronanet.engines.base import Tensors
from coronanet.engines.bundle import Bundle
from numpy.typing import NDArray


class FakeTime:
    """A clock that only moves when a call takes time, and by ``tick_ns`` whenever somebody looks at it."""

    def __init__(self, tick_ns: int = 0) -> None:
        self.now = 0
        self.tick_ns = tick_ns

    def __call__(self) -> int:
        self.now += self.tick_ns
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * NS_PER_S)

    def call(self, *durations_ms: float, log: list[str] | None = None, name: str = "") -> Callable[[], None]:
        """A call that takes these times, one after the other, and the last one for ever."""
        left = list(durations_ms)

        def run() -> None:
            self.sleep((left.pop(0) if len(left) > 1 else left[0]) / 1000)
            if log is not None:
                log.append(name)

        return run

    def for_calls(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        """Warm-ups and turns that ``module`` asks for are timed by this clock."""
        monkeypatch.setattr(module, "interleave", partial(interleave, clock=self))
        monkeypatch.setattr(module, "warm_up", partial(warm_up, clock=self))

    def for_streams(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Streams of load are timed, and wait, by this clock: one at a time, since several would all move it."""
        clock = self

        class Event(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                clock.sleep(timeout or 0.0)
                return self.is_set()

        monkeypatch.setattr(load, "time", SimpleNamespace(perf_counter_ns=self))
        monkeypatch.setattr(load, "threading", SimpleNamespace(Barrier=threading.Barrier, Event=Event))


def timed_engine(bundle: Bundle, clock: FakeTime, ms: float, rng: np.random.Generator) -> PeerEngine:
    """The network of a bundle that computes nothing and takes time of the clock, on a machine as noisy as a shared one.

    A call takes ``ms`` with a deviation of 3 %; one of twenty is interrupted, for half of its length on average.
    """

    def run(_: Tensors) -> dict[str, NDArray[Any]]:
        interrupted = rng.exponential(0.5) if rng.random() < 0.05 else 0.0
        clock.sleep(ms / 1000 * np.exp(rng.normal(0, 0.03)) * (1 + interrupted))
        return {}

    return PeerEngine(bundle.require("network"), run)
