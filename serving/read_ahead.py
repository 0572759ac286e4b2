"""What is read on a thread of its own, a few things ahead of who works on them."""

import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")
#: Seconds after which a thread that waits looks whether it is still wanted.
LOOK_S = 0.1


@dataclass(frozen=True)
class _End(Generic[Item]):
    """Behind the last item: what reading died of, None where it came to its end."""

    error: Exception | None


@contextmanager
def read_ahead(items: Iterable[Item], most: int) -> Generator[Iterator[Item]]:
    """``items``, gone through on another thread, at most ``most`` ahead; when the block ends, so does the reading.

    What reading raises is raised where the items are taken, behind those that came before it.
    """
    ready: Queue[Item | _End[Item]] = Queue(most)
    unwanted = threading.Event()

    def put(item: Item | _End[Item]) -> None:
        while not unwanted.is_set():
            try:
                ready.put(item, timeout=LOOK_S)
            except Full:
                continue
            return

    def read() -> None:
        try:
            for item in items:
                put(item)
                if unwanted.is_set():
                    return
        except Exception as error:  # raised again where the items are taken
            put(_End(error))
        else:
            put(_End(None))

    def take() -> Iterator[Item]:
        while True:
            item = ready.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        unwanted.set()
        while True:
            try:
                ready.get_nowait()
            except Empty:
                break
        thread.join()
