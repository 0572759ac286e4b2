from collections.abc import Callable
from typing import Any

import pytest
from coronanet.benchmarks.load import Block, Load, LoadPlan, Streams
from coronanet.benchmarks.timing import NS_PER_MS, NS_PER_S
from coronanet.model.errors import UsageError

from .fake_time import FakeTime


def test_every_request_is_sent_once_by_streams_with_their_own_engine(
    fake_engine: Any, feeds: Any, meeting: Any
) -> None:
    engines: list[Any] = []
    # One request of every stream is not counted.
    side_by_side = meeting(3, settling=3)

    def open_one() -> Any:
        engines.append(fake_engine(sleep=side_by_side))
        return engines[-1]

    with Streams(open_one, 3, feeds) as streams:
        block = streams.run(12, limit_s=60)
    assert len(block.latencies_ns) == 12
    assert side_by_side.met.is_set()
    assert sum(engine.calls for engine in engines) == 12 + 3
    assert all(engine.closed and len(engine.threads) == 1 for engine in engines)
    assert len(set.union(*(engine.threads for engine in engines))) == 3
    assert fake_engine.most_running == 3


def test_failures_are_counted_and_not_among_the_latencies(fake_engine: Any, feeds: Any) -> None:
    with Streams(lambda: fake_engine(fails_every=4), 1, feeds) as streams:
        load = Load((streams.run(11, limit_s=60),), 1)
    assert load.errors == {"RuntimeError: planted at 10.1.2.3:8001": 3}
    assert load.samples is not None
    assert load.samples.count == 8
    assert (load.requests, load.failed) == (11, 3)
    assert "failures: 3 of 11 requests" in load.warnings


def test_load_that_only_fails_has_no_statistics(fake_engine: Any, feeds: Any) -> None:
    with Streams(lambda: fake_engine(fails_every=1), 2, feeds) as streams:
        load = Load((streams.run(4, limit_s=60),), 2)
    assert load.samples is None
    assert load.failed == 4
    assert load.throughput_per_s == 0


def test_throughput_is_answered_slices_over_wall_time() -> None:
    block = Block(latencies_ns=(200 * NS_PER_MS,) * 10, errors=("boom",) * 5, wall_ns=2 * NS_PER_S)
    load = Load((block, block), concurrency=4, items=3)
    assert load.throughput_per_s == pytest.approx(3 * 20 / 4)
    assert block.throughput_per_s(3) == pytest.approx(15)


def test_time_limit_stops_sending(fake_engine: Any, feeds: Any) -> None:
    with Streams(lambda: fake_engine(0.05), 2, feeds) as streams:
        block = streams.run(100_000, limit_s=0.2)
    assert 2 <= len(block.latencies_ns) < 100


def test_every_stream_sends_even_when_the_limit_has_passed(fake_engine: Any, feeds: Any) -> None:
    with Streams(fake_engine, 2, feeds) as streams:
        assert len(streams.run(10, limit_s=0.0).latencies_ns) == 2


def test_engines_already_open_are_closed_when_one_cannot_be_opened(fake_engine: Any, feeds: Any) -> None:
    first = fake_engine()
    engines = iter([first])

    def open_one() -> Any:
        try:
            return next(engines)
        except StopIteration:
            raise UsageError("no second one") from None

    with pytest.raises(UsageError, match="no second one"):
        Streams(open_one, 2, feeds)
    assert first.closed


@pytest.mark.parametrize(("concurrency", "burst"), [(1, 20), (2, 20), (3, 21), (8, 32)])
def test_a_burst_is_the_same_number_of_requests_for_every_stream(concurrency: int, burst: int) -> None:
    assert LoadPlan(requests=100, limit_s=60, rounds=5).burst(concurrency) == burst


def test_a_slow_target_is_seen_slower_by_what_was_planted(
    fake_engine: Callable[..., Any], feeds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeTime()
    clock.for_streams(monkeypatch)

    def block(sleep_s: float) -> Block:
        with Streams(lambda: fake_engine(sleep_s, sleep=clock.sleep), 1, feeds) as streams:
            return streams.run(5, limit_s=60)

    slow, fast = block(0.05), block(0.005)
    assert slow.latencies_ns == (50 * NS_PER_MS,) * 5
    assert fast.latencies_ns == (5 * NS_PER_MS,) * 5
    assert slow.wall_ns == 10 * fast.wall_ns == 250 * NS_PER_MS
