"""Several engines of one kind as one, which works on several feeds at once."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from numpy.typing import NDArray

from ..model.tasks import TaskName
from .base import Engine, EngineBase, Tensors
from .bundle import Bundle
from .machine import available_cores
from .open import Backend
from .predictor import Choice, LocalEnsemble

Answer = dict[str, NDArray[Any]]
#: Slices of a study in a call: on a CPU as fast as four, in 1 GB of memory instead of 1.7.
BATCH = 2
#: int16 bytes of image in a call: a slice of 4096 x 4096 goes alone.
BATCH_BYTES = 32 * 2**20
#: Each takes memory for networks and for a slice of its own.
MOST_STREAMS = 2
CPU_BACKENDS: tuple[Backend, ...] = ("onnxruntime", "openvino")


class EngineStreams(EngineBase):
    """Each engine has a thread of its own; all are alike, so it does not matter which one answers.

    Args:
        engines: at least one; they are closed with this one.
        most: the largest batch, where it is less than what the engines take.
    """

    def __init__(self, engines: Sequence[Engine], *, most: int | None = None) -> None:
        first = engines[0]
        largest = min(engine.max_batch for engine in engines)
        super().__init__(first.inputs, first.outputs, largest if most is None else min(most, largest))
        self._engines = tuple(engines)
        idle: SimpleQueue[Engine] = SimpleQueue()
        for engine in engines:
            idle.put(engine)
        # A thread keeps its engine: some backends build their worker threads anew for every caller.
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(len(engines), initializer=lambda: setattr(self._own, "engine", idle.get()))

    def infer(self, feeds: Tensors) -> Answer:
        return self._threads.submit(self._infer, feeds).result()

    def infer_each(self, feeds: Iterable[Tensors]) -> Iterator[Answer]:
        """The answers in the order of the feeds, which are taken as the engines come free, one each ahead of them."""
        pending: deque[Future[Answer]] = deque()
        try:
            for each in feeds:
                pending.append(self._threads.submit(self._infer, each))
                if len(pending) >= 2 * len(self._engines):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
            wait(pending)

    def close(self) -> None:
        self._threads.shutdown()
        for engine in self._engines:
            engine.close()

    def _infer(self, feeds: Tensors) -> Answer:
        engine: Engine = self._own.engine
        return engine.infer(feeds)


def open_ensemble(bundles: Mapping[TaskName, Bundle], choices: Mapping[TaskName, Choice]) -> Engine:
    """The ensemble in this process, as fast as it goes for the many slices of a study: in ``streams_of`` streams."""
    count = streams_of(choices)
    if count == 1:
        return LocalEnsemble(bundles, choices)
    threads = available_cores() // count
    own: dict[TaskName, Choice] = {name: replace(choice, threads=threads) for name, choice in choices.items()}
    with ExitStack() as stack:
        engines = [stack.enter_context(LocalEnsemble(bundles, own)) for _ in range(count)]
        stack.pop_all()
    # The streams share what one of them would have in work, since memory goes with it.
    return EngineStreams(engines, most=max(1, BATCH // count))


def streams_of(choices: Mapping[TaskName, Choice]) -> int:
    """In how many streams the ensemble runs.

    On CPUs alone the cores are shared by streams, since what a network leaves idle between its layers is then
    another's; a choice that names its threads, or one for a GPU, is taken as it is.
    """
    on_cpu = all(choice.backend in CPU_BACKENDS and choice.threads is None for choice in choices.values())
    return min(available_cores(), MOST_STREAMS) if on_cpu else 1


def slices_a_call(slice_bytes: int) -> int:
    """How many slices of a study, of so many bytes of int16 each, go to an engine at once."""
    return max(1, min(BATCH, BATCH_BYTES // slice_bytes))
