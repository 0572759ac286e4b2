"""The open loop: requests leave when the schedule says so, and latency counts from then."""

from typing import Any

import numpy as np
import pytest
from coronanet.benchmarks.bench_rates import SEARCH_STEPS, SHARES, RateTarget, measure_rates
from coronanet.benchmarks.limits import Point, closed_knee, next_rate, open_knee, within_budget
from coronanet.benchmarks.load import SETTLE, Arrivals, Block, Load, LoadPlan, Streams
from coronanet.benchmarks.serving_report import Budget
from coronanet.benchmarks.timing import NS_PER_MS, NS_PER_S
from coronanet.engines.base import EngineBase, Tensors
from numpy.typing import NDArray

from .fake_time import FakeTime


def test_a_schedule_is_a_poisson_process_that_its_seed_names() -> None:
    arrivals = Arrivals(seconds=400, seed=3)
    times = np.array(arrivals.schedule(50.0, 0, 1)) / NS_PER_S
    gaps = np.diff(times, prepend=0.0)
    # Exponential gaps: mean and standard deviation are both 1 / rate; 20 000 draws lie well within 5 %.
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.05)
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)
    assert times.max() < 400
    assert arrivals.schedule(50.0, 0, 1) == Arrivals(seconds=400, seed=3).schedule(50.0, 0, 1)
    assert arrivals.schedule(50.0, 0, 1) != Arrivals(seconds=400, seed=4).schedule(50.0, 0, 1)
    assert arrivals.schedule(50.0, 0, 2) != arrivals.schedule(50.0, 1, 2)


def test_rates_share_one_draw_and_a_round_is_its_share_of_the_seconds() -> None:
    arrivals = Arrivals(seconds=10)
    slow, fast = arrivals.schedule(10.0, 2, 5), arrivals.schedule(20.0, 2, 5)
    assert np.allclose(np.array(fast[: len(slow)]) * 2, slow, atol=10)
    assert max(fast) < 2 * NS_PER_S
    # No request is made up for a rate at which none is due: it would be another rate.
    assert arrivals.schedule(0.001, 0, 5) == ()


class Stalls(EngineBase):
    """Answers at once, but for one call that takes half a second, as a server does that stops to think."""

    def __init__(self, like: Any, clock: FakeTime) -> None:
        super().__init__(like.inputs, like.outputs, 8)
        self.clock, self.calls = clock, 0

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        self.calls += 1
        if self.calls == 20:
            self.clock.sleep(0.5)
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    """What a stream of load is timed by, and waits by."""
    clock = FakeTime()
    clock.for_streams(monkeypatch)
    return clock


def test_a_stall_is_charged_to_every_request_that_it_kept_waiting(
    fake_engine: Any, feeds: Any, clock: FakeTime
) -> None:
    """A closed loop sees one slow request of a hundred, and calls its p95 fast: that is coordinated omission."""
    with Streams(lambda: Stalls(fake_engine(), clock), 1, feeds) as streams:
        closed = streams.run(100, limit_s=60)
    schedule = [place * 10 * NS_PER_MS for place in range(100)]
    with Streams(lambda: Stalls(fake_engine(), clock), 1, feeds) as streams:
        opened = streams.play(schedule, 1.0)
    assert sorted(closed.latencies_ns) == [*[0] * 99, 500 * NS_PER_MS]
    # One call settles, so the request that stalls is that of 180 ms, and those until 680 ms wait for it.
    assert opened.latencies_ns == tuple((680 - 10 * place) * NS_PER_MS * (18 <= place < 68) for place in range(100))
    assert opened.delays_ns == tuple(late * (place != 18) for place, late in enumerate(opened.latencies_ns))


def test_requests_leave_when_the_schedule_says_so(fake_engine: Any, feeds: Any, clock: FakeTime) -> None:
    schedule = [place * 20 * NS_PER_MS for place in range(10)]
    with Streams(lambda: fake_engine(0.01, sleep=clock.sleep), 1, feeds) as streams:
        block = streams.play(schedule, 0.2)
    assert block.delays_ns == (0,) * 10
    assert block.latencies_ns == (10 * NS_PER_MS,) * 10
    assert block.wall_ns == 200 * NS_PER_MS


def test_requests_leave_side_by_side_where_there_are_streams_and_none_too_early(
    fake_engine: Any, feeds: Any, meeting: Any
) -> None:
    side_by_side = meeting(8, settling=SETTLE)
    schedule = [place * 20 * NS_PER_MS for place in range(10)]
    with Streams(lambda: fake_engine(sleep=side_by_side), 8, feeds) as streams:
        block = streams.play(schedule, 20.0)
    assert side_by_side.met.is_set()
    assert len(block.latencies_ns) == 10
    assert min(block.delays_ns) >= 0


def test_what_an_overloaded_server_never_got_is_counted(fake_engine: Any, feeds: Any) -> None:
    schedule = [round(place * 0.005 * NS_PER_S) for place in range(60)]
    with Streams(lambda: fake_engine(0.05), 1, feeds) as streams:
        block = streams.play(schedule, 0.3)
    load = Load((block,), 1)
    assert load.requests == 60
    assert load.unsent == 60 - len(block.latencies_ns) > 30
    assert not load.kept_up
    assert any("never sent" in warning for warning in load.warnings)


def test_keeping_up_allows_the_last_request_its_time() -> None:
    def kept_up(wall_s: float, *, errors: tuple[str, ...] = (), unsent: int = 0) -> bool:
        block = Block((NS_PER_S // 10,) * 10, errors, round(wall_s * NS_PER_S), length_ns=NS_PER_S, unsent=unsent)
        return Load((block, block), 1).kept_up

    assert kept_up(1.14)
    assert not kept_up(1.2)
    assert not kept_up(1.0, unsent=1)
    assert not kept_up(1.0, errors=("boom",))


def test_a_queue_that_grows_is_not_taken_for_the_time_of_the_last_request() -> None:
    """Eight percent more than it can take: the median has half of the queue in it."""
    latencies = tuple(round((0.002 + 0.08 * place / 100) * NS_PER_S) for place in range(100))
    assert not Load((Block(latencies, (), round(1.082 * NS_PER_S), length_ns=NS_PER_S),), 1).kept_up


def test_a_rate_at_which_nothing_was_due_is_said_to_be_too_few(fake_engine: Any, feeds: Any) -> None:
    with Streams(lambda: fake_engine(0.01), 1, feeds) as streams:
        load = Load((streams.play((), 0.05),), 1)
    assert (load.requests, load.kept_up) == (0, False)
    assert any("too few" in warning for warning in load.warnings)


def test_the_knee_of_a_closed_loop_is_the_fewest_streams_with_nearly_all() -> None:
    points = [Point(1, 50, 20), Point(2, 97, 21), Point(4, 100, 40), Point(8, 99, 80)]
    assert closed_knee(points) == points[1]
    assert closed_knee([]) is None


def test_the_knee_of_an_open_loop_is_the_last_rate_before_the_first_that_was_too_much() -> None:
    points = [Point(10, 10, 20), Point(40, 30, 900, kept_up=False), Point(20, 20, 25), Point(50, 50, 30)]
    assert open_knee(points) == points[2]
    assert open_knee([Point(10, 5, 900, kept_up=False)]) is None


def test_within_a_budget_throughput_counts_and_what_did_not_keep_up_does_not() -> None:
    points = [Point(1, 50, 20), Point(2, 90, 49), Point(4, 100, 51), Point(5, 200, 30, kept_up=False)]
    assert within_budget(points, 50) == points[1]
    assert within_budget(points, 10) is None
    lucky = Point(6, 300, 20)
    assert within_budget([*points, lucky], 50) == points[1]


def test_the_search_halves_between_the_last_good_rate_and_the_first_bad_one() -> None:
    good, bad, lucky = Point(10, 10, 20), Point(20, 20, 80), Point(30, 30, 20)
    assert next_rate([good, bad], 50) == 15
    assert next_rate([good, bad, lucky], 50) == 15
    assert next_rate([good], 50) == 15
    assert next_rate([bad], 50) == 10


def test_auto_finds_the_rate_that_a_known_server_can_take(fake_engine: Any, feeds: Any, clock: FakeTime) -> None:
    """One stream that takes 10 ms takes at most 100 requests a second, and far fewer where none may wait for long."""
    plan = LoadPlan(100, 60.0, rounds=1, arrivals=Arrivals(seconds=20, streams=1))
    target = RateTarget("coronanet", lambda: fake_engine(0.01, sleep=clock.sleep), feeds, batch=1, peak_per_s=90.0)
    found = measure_rates(target, "auto", plan, Budget(latency_ms=40.0), lambda _: None)
    rates = [case.rate_per_s for case, _ in found]
    assert len(found) == len(SHARES) + SEARCH_STEPS
    assert rates == sorted(rates)
    p99_ms = [load.samples.p99_ms for _, load in found if load.samples is not None]
    assert p99_ms == sorted(p99_ms)
    # Halved four times, what keeps the budget and what does not lie a 16th of a step of the first rates apart.
    kept = sum(one <= 40 for one in p99_ms)
    assert rates[kept] - rates[kept - 1] == pytest.approx((0.7 - 0.5) * 90 / 2**SEARCH_STEPS)
