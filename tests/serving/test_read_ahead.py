"""Reading on a thread of its own: in order, not too far ahead, and over when nobody wants more."""

import threading
import time
from collections.abc import Iterator

import pytest
from coronanet.serving.read_ahead import read_ahead


def test_items_come_in_order_and_from_another_thread() -> None:
    readers: set[int] = set()

    def items() -> Iterator[int]:
        for number in range(50):
            readers.add(threading.get_ident())
            yield number

    with read_ahead(items(), 3) as ahead:
        assert list(ahead) == list(range(50))
    assert readers.isdisjoint({threading.get_ident()})


def test_no_more_is_read_than_may_lie_ahead() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    with read_ahead(items(), 4) as ahead:
        next(ahead)
        time.sleep(0.3)
        # The one that was taken, four that wait, and one that waits for room.
        assert len(read) <= 6
    assert len(read) < 100


def test_what_reading_dies_of_comes_behind_what_was_read() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the disk is gone")

    taken: list[int] = []
    with pytest.raises(ValueError, match="the disk is gone"), read_ahead(items(), 8) as ahead:
        taken += ahead
    with read_ahead(items(), 8) as ahead:
        assert [next(ahead), next(ahead)] == [1, 2]


def test_who_leaves_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    with read_ahead(iter(range(10**6)), 2) as ahead:
        assert next(ahead) == 0
    assert threading.active_count() == before
