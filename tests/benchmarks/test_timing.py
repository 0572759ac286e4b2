import pytest
from coronanet.benchmarks.timing import NS_PER_MS, NS_PER_S, Plan, Samples, WarmUpRule, interleave, rounds, warm_up

from .fake_time import FakeTime


def milliseconds(*values: float) -> tuple[int, ...]:
    return tuple(round(value * NS_PER_MS) for value in values)


def test_statistics_of_known_samples() -> None:
    samples = Samples(milliseconds(*range(100, 0, -1)), items=4)
    assert samples.p50_ms == pytest.approx(50.5)
    assert samples.p90_ms == pytest.approx(90.1)
    assert samples.p95_ms == pytest.approx(95.05)
    assert samples.p99_ms == pytest.approx(99.01)
    assert samples.mean_ms == pytest.approx(50.5)
    assert (samples.min_ms, samples.max_ms) == (1.0, 100.0)
    assert samples.iqr_ms == pytest.approx(49.5)
    assert samples.spread == pytest.approx(49.5 / 50.5)
    assert samples.throughput_per_s == pytest.approx(4 * 100 / 5.05)


def test_one_sample_has_statistics_and_none_has_not() -> None:
    assert Samples(milliseconds(3)).p99_ms == 3.0
    with pytest.raises(ValueError, match="at least one"):
        Samples(())


def test_wide_spread_is_said() -> None:
    assert any(warning.startswith("wide spread: ") for warning in Samples(milliseconds(*[10, 20] * 50)).warnings)
    assert Samples(milliseconds(*[10, 10.5] * 50)).warnings == ()


@pytest.mark.parametrize(
    ("count", "said"), [(19, "p95 and p99 of 19"), (20, "p99 of 20"), (99, "p99 of 99"), (100, "")]
)
def test_percentiles_of_too_few_samples_are_said(count: int, said: str) -> None:
    assert said in " ".join(Samples(milliseconds(*[10] * count)).warnings)
    assert bool(Samples(milliseconds(*[10] * count)).warnings) == bool(said)


def test_warm_up_ends_when_durations_settle() -> None:
    clock = FakeTime()
    warm = warm_up(clock.call(500, 90, 50, 30, 20, 10.2, 10.1, 10), WarmUpRule(), clock=clock)
    assert warm.stable
    assert warm.durations_ns[0] == 500 * NS_PER_MS
    assert 8 <= len(warm.durations_ns) < 30
    assert warm.warnings == ()


def test_warm_up_that_never_settles_is_bounded_in_count_and_says_so() -> None:
    clock = FakeTime()
    warm = warm_up(clock.call(*[2.0**step for step in range(40)]), WarmUpRule(most=12, limit_s=1e6), clock=clock)
    assert len(warm.durations_ns) == 12
    assert warm.warnings == ("not warm: durations had not settled after 12 calls",)


def test_warm_up_is_bounded_in_time() -> None:
    clock = FakeTime()
    warm = warm_up(clock.call(1000), WarmUpRule(limit_s=2.5), clock=clock)
    assert len(warm.durations_ns) == 3
    assert not warm.stable


def test_a_planted_slow_candidate_is_seen_slower_by_what_was_planted() -> None:
    clock = FakeTime()
    measured = interleave({"slow": clock.call(11), "fast": clock.call(10)}, Plan(20, 60), clock=clock)
    assert measured["slow"].samples.p50_ms / measured["fast"].samples.p50_ms == pytest.approx(1.1)


def test_candidates_take_turns_and_none_is_always_first() -> None:
    clock, log = FakeTime(), list[str]()
    calls = {name: clock.call(1, log=log, name=name) for name in "abc"}
    interleave(calls, Plan(repeats=4, limit_s=60, block=2, settle=0), clock=clock)
    assert "".join(log) == "aabbcc" + "bbccaa"


def test_a_disturbance_meets_all_candidates_alike() -> None:
    """The machine gets three times slower half way: measured one after the other, b would look slower than a."""
    clock = FakeTime()
    measured = interleave(
        {name: clock.call(*[10] * 30, *[30] * 30) for name in "ab"}, Plan(50, 60, settle=0), clock=clock
    )
    assert measured["a"].samples.mean_ms == measured["b"].samples.mean_ms


def test_settling_calls_are_not_counted_and_repeats_are_exact() -> None:
    clock = FakeTime()
    measured = interleave({"a": clock.call(999, 1)}, Plan(repeats=7, limit_s=60, block=7), clock=clock)
    assert measured["a"].samples.durations_ns == milliseconds(*[1] * 7)
    seven = interleave({"a": clock.call(1)}, Plan(repeats=7, limit_s=60, block=5), clock=clock)["a"]
    assert [len(one) for one in seven.rounds_ns] == [5, 2]


def test_a_slow_candidate_sits_out_when_its_share_of_the_time_is_spent_and_the_others_go_on() -> None:
    clock = FakeTime()
    plan = Plan(repeats=100, limit_s=4)
    measured = interleave({"slow": clock.call(3000), "fast": clock.call(1)}, plan, clock=clock)
    assert measured["slow"].samples.count == 1
    assert measured["fast"].samples.count == 100
    assert clock.now < 7 * NS_PER_S


def test_a_slow_candidate_makes_the_rounds_that_it_owes_with_its_share_spread_over_them() -> None:
    clock = FakeTime()
    plan = Plan(repeats=100, limit_s=4, least_rounds=4)
    calls = {"slow": clock.call(3000), "slower than its share": clock.call(200), "fast": clock.call(1)}
    rounds_ns = {name: each.rounds_ns for name, each in interleave(calls, plan, clock=clock).items()}
    assert [len(one) for one in rounds_ns["slow"]] == [1, 1, 1, 1]
    assert [len(one) for one in rounds_ns["slower than its share"]] == [1, 1, 1, 1]
    assert [len(one) for one in rounds_ns["fast"]] == [5] * 20
    few = Plan(repeats=10, limit_s=4, least_rounds=4)
    assert len(interleave({"slow": clock.call(3000)}, few, clock=clock)["slow"].rounds_ns) == 2


def test_a_candidate_that_dies_is_told_of_and_the_others_go_on() -> None:
    clock, told = FakeTime(), list[str]()
    left = [1] * 9

    def dies() -> None:
        clock.now += NS_PER_MS
        left.pop()

    calls = {"before": clock.call(1), "dies": dies, "behind": clock.call(1)}
    plan = Plan(repeats=20, limit_s=60)
    taken = interleave(calls, plan, lost=lambda key, error: told.append(f"{key}: {error}"), clock=clock)
    assert told == ["dies: pop from empty list"]
    assert {name: each.samples.count for name, each in taken.items()} == {"before": 20, "behind": 20}
    with pytest.raises(IndexError):
        interleave(calls, plan, clock=clock)


def test_time_limit_ends_the_turns_of_all() -> None:
    clock = FakeTime()
    measured = interleave({name: clock.call(100) for name in "ab"}, Plan(repeats=1000, limit_s=4), clock=clock)
    assert clock.now < 5 * NS_PER_S
    assert 12 <= measured["a"].samples.count <= 20


def test_there_is_always_one_round() -> None:
    clock = FakeTime()
    assert list(rounds(["a"], 3, limit_s=0.0, clock=clock)) == [["a"]]
