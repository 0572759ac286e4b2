"""Where the time of a study goes: how long each stage was at work, in seconds.

Stages that go on beside each other add up to more than the clock on the wall shows.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


class Stages:
    """A stopwatch a stage; a stage is timed by one thread at a time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def add(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    @contextmanager
    def timed(self, stage: str) -> Generator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def each(self, stage: str, items: Iterable[Item]) -> Iterator[Item]:
        """``items``; what it takes to come by each of them is the stage's."""
        source = iter(items)
        while True:
            with self.timed(stage):
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item
