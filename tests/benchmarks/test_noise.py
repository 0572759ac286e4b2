"""A difference is called one where there is one, and hardly ever where there is none, on a machine that drifts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from coronanet.benchmarks.noise import (
    LEAST_FLOOR,
    LEAST_FLOOR_UNKNOWN,
    ROUNDS_FOR_A_TENTH,
    Run,
    apart,
    halves,
    log_medians,
    middle,
    noise_floor,
    paired,
    resample,
)
from numpy.typing import NDArray

RUNS = 100
Rounds = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Noise:
    """A machine: all deviations are of the logarithm of a duration.

    Attributes:
        machine: of a drift that all candidates share, call after call, correlated by ``memory``.
        own: of a drift of each candidate, correlated by .8.
        opening: of each opening of a candidate, for its whole life: where its memory lies.
        white: of every call.
        spikes: share of calls that something interrupts, for half of their length on average.
        between: of the machine from one run to the next; a yardstick follows it by four fifths.
    """

    machine: float = 0.05
    memory: float = 0.97
    own: float = 0.01
    opening: float = 0.007
    white: float = 0.03
    spikes: float = 0.05
    between: float = 0.03


def drift(rng: np.random.Generator, count: int, deviation: float, memory: float) -> NDArray[np.float64]:
    """An autoregression of order one that is stationary from its first value on."""
    steps = rng.normal(0, deviation * np.sqrt(1 - memory**2), count)
    values = np.empty(count)
    values[0] = rng.normal(0, deviation)
    for index in range(1, count):
        values[index] = memory * values[index - 1] + steps[index]
    return values


def simulate(
    rng: np.random.Generator, milliseconds: Mapping[str, float], noise: Noise, *, rounds: int = 20, block: int = 5
) -> dict[str, Rounds]:
    """What `interleave` would bring home of candidates with these durations."""
    shared = drift(rng, rounds * len(milliseconds) * (block + 1), noise.machine, noise.memory).reshape(
        rounds, len(milliseconds), block + 1
    )
    taken: dict[str, Rounds] = {}
    for place, (name, ms) in enumerate(milliseconds.items()):
        logs = np.stack([shared[number, (place - number) % len(milliseconds), 1:] for number in range(rounds)])
        logs = logs + drift(rng, rounds * block, noise.own, 0.8).reshape(rounds, block) + rng.normal(0, noise.opening)
        logs += rng.normal(0, noise.white, logs.shape)
        logs += np.log1p((rng.random(logs.shape) < noise.spikes) * rng.exponential(0.5, logs.shape))
        taken[name] = tuple(tuple(round(value) for value in one) for one in ms * 1e6 * np.exp(logs))
    return taken


def interleaved(rng: np.random.Generator, slowdown: float, noise: Noise) -> str:
    taken = simulate(rng, {"a1": 5, "b1": 5 * slowdown, "a2": 5, "b2": 5 * slowdown}, noise)
    logs = {name: log_medians(rounds) for name, rounds in taken.items()}
    return paired([logs["a1"], logs["a2"]], [logs["b1"], logs["b2"]]).verdict


def one_after_the_other(rng: np.random.Generator, slowdown: float, noise: Noise) -> str:
    runs: list[Run] = []
    for factor in (1.0, slowdown):
        moved = rng.normal(0, noise.between)
        milliseconds = {"case": 5 * factor * np.exp(moved), "other": 8, "yardstick": 6 * np.exp(0.8 * moved)}
        # Twice as many calls: what interleaving saves.
        taken = simulate(rng, milliseconds, noise, rounds=ROUNDS_FOR_A_TENTH)
        runs.append(Run(log_medians(taken["case"]), log_medians(taken["yardstick"])))
    return apart(*runs).verdict


MACHINES = {"shared": Noise(), "quiet": Noise(machine=0.01, own=0.004, white=0.01, spikes=0.01, between=0.01)}


@pytest.mark.parametrize("seed", range(7, 12))
@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("compare", [interleaved, one_after_the_other], ids=["interleaved", "two runs"])
def test_a_difference_is_called_in_under_5_of_100_where_there_is_none_and_10_percent_found_in_95(
    compare: Callable[[np.random.Generator, float, Noise], str], name: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    assert sum(compare(rng, 1.0, MACHINES[name]) != "noise" for _ in range(RUNS)) < 5
    assert sum(compare(rng, 1.1, MACHINES[name]) == "slower" for _ in range(RUNS)) >= 95


def test_taking_calls_for_independent_would_call_a_difference_where_there_is_none() -> None:
    """Why rounds are resampled in blocks: a plain bootstrap of every call believes far too much."""
    rng = np.random.default_rng(3)
    wrong = 0
    for _ in range(RUNS):
        a, b = (np.log(simulate(rng, {"x": 5}, MACHINES["shared"])["x"]).ravel() for _ in range(2))
        resampled = [rng.choice(b, len(b)).mean() - rng.choice(a, len(a)).mean() for _ in range(200)]
        low, high = np.quantile(resampled, [0.025, 0.975])
        wrong += low > 0 or high < 0
    assert wrong > 30


def test_what_two_openings_of_one_engine_differ_by_is_never_called_a_difference() -> None:
    steady = np.zeros(20)
    found = paired([steady, steady + np.log(1.06)], [steady + np.log(1.05), steady + np.log(1.05)])
    assert found.floor == pytest.approx(0.06)
    assert found.verdict == "noise"
    assert paired([steady, steady], [steady + np.log(1.05)] * 2).verdict == "slower"
    assert paired([steady, steady], [steady + np.log(1.01)] * 2).floor == LEAST_FLOOR


def test_what_the_yardstick_moved_by_is_taken_out_and_half_of_it_is_in_the_floor() -> None:
    steady = np.zeros(20)
    slow_machine = apart(Run(steady, steady), Run(steady + np.log(1.2), steady + np.log(1.2)))
    assert slow_machine.ratio == pytest.approx(1.0)
    assert slow_machine.verdict == "noise"
    slower = apart(Run(steady, steady), Run(steady + np.log(1.4), steady + np.log(1.1)))
    assert slower.ratio == pytest.approx(1.4 / 1.1)
    assert slower.floor == pytest.approx(1.1**0.5 - 1)
    assert slower.verdict == "slower"


def test_without_a_yardstick_the_floor_is_wide() -> None:
    steady = np.zeros(5)
    found = apart(Run(steady, None), Run(steady + np.log(1.09), None))
    assert found.floor == LEAST_FLOOR_UNKNOWN
    assert found.verdict == "noise"


def test_fewer_than_four_rounds_judge_nothing_however_far_apart_they_are() -> None:
    for count in (1, 2, 3):
        once, twice = np.zeros(count), np.full(count, np.log(2.0))
        for found in (paired([once, once], [twice, twice]), apart(Run(once, once), Run(twice, once))):
            assert (found.verdict, found.rounds) == ("not judged", count)
    assert apart(Run(np.zeros(4), None), Run(np.full(9, np.log(2.0)), None)).verdict == "slower"


def test_a_drift_within_a_run_is_its_noise_floor() -> None:
    flat = tuple((1000, 1000) for _ in range(10))
    bent = (*flat[:5], *((1100, 1100) for _ in range(5)))
    assert noise_floor(flat) == 0
    assert noise_floor(bent) == pytest.approx(0.1)
    assert noise_floor(flat[:3]) is None
    assert halves(log_medians([(1000,), (1200,)] * 6)) == pytest.approx(0.2)


def test_the_middle_half_is_not_moved_by_a_few_bad_rounds() -> None:
    values = np.array([1.0] * 9 + [50.0] * 3)
    assert middle(values) == 1.0
    assert middle(np.array([1.0, 2.0, 3.0])) == 2.0


def test_resampled_rounds_keep_their_neighbours() -> None:
    drawn = resample(30, np.random.default_rng(0))
    follows = (np.diff(drawn, axis=1) % 30 == 1).mean()
    assert 0.6 < follows < 0.75
    assert set(np.unique(drawn)) == set(range(30))
