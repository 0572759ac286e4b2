"""Our engines are no slower than the library alone: a ratio of one run, in turns, against one that is written here.

What a machine, its load or a new version of a library does to speed, it does to both. What is the engine's doing shows
in every measurement, what is the machine's hardly ever in three. `docs/operations.md` has the same for networks of your
own.
"""

from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import onnxruntime
import openvino
import pytest
from coronanet.benchmarks import against
from coronanet.benchmarks.against import measure_against
from coronanet.benchmarks.inputs import phantom_slices
from coronanet.benchmarks.noise import LEAST_ROUNDS
from coronanet.benchmarks.peers import PeerEngine
from coronanet.benchmarks.report import Comparison
from coronanet.benchmarks.timing import Plan, WarmUpRule
from coronanet.benchmarks.ways import Way, open_way
from coronanet.engines.base import Engine
from coronanet.engines.bundle import Bundle
from coronanet.engines.open import Backend
from coronanet.engines.predictor import Choice
from coronanet.model.tasks import TaskName

from .fake_time import FakeTime, timed_engine

TASK: TaskName = "lung_segmentation"
Open = Callable[[Bundle, Way], Engine]
#: Ours for each of the library's milliseconds: measured here, and what more is let pass before it is a slowdown.
RATIOS: dict[Backend, float] = {"onnxruntime": 1.0, "openvino": 1.0}
ALLOWED = 0.1
BATCH, PLAN, RULE = 4, Plan(100, 6.0, least_rounds=LEAST_ROUNDS), WarmUpRule(most=4, limit_s=1.0)
MEASUREMENTS = 3


def _library(bundle: Bundle, way: Way) -> Engine:
    """The same file on the same library and thread, with nothing of ours but the check of what it is fed."""
    record = bundle.require("network")
    name, path = record.outputs[0].name, bundle.file(record)
    if way.choice.backend == "openvino":
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(path, "CPU", options)
        return PeerEngine(record, lambda feeds: {name: compiled(dict(feeds))[0]})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return PeerEngine(record, lambda feeds: {name: session.run([name], dict(feeds))[0]})


def _measure(bundle: Bundle, backend: Backend, ours: Open = open_way, library: Open = _library) -> Comparison:
    """Ours over the library's, each opened twice and all in turns."""
    turns = count()

    def opener(bundle: Bundle, way: Way) -> Engine:
        return (ours if next(turns) % 2 else library)(bundle, way)

    one: dict[TaskName, Bundle] = {TASK: bundle}
    ways = [Way(Choice(backend, "fp32", 1))]
    return measure_against(one, one, ways, [BATCH], phantom_slices(), plan=PLAN, rule=RULE, opener=opener).comparisons[
        0
    ]


def _is_slower(found: Comparison, backend: Backend) -> bool:
    """Whether the whole interval of the ratio lies beyond what is allowed and what this run calls noise."""
    assert found.verdict != "not judged"
    return found.low > RATIOS[backend] * (1 + ALLOWED) * (1 + found.noise_floor)


@pytest.mark.parametrize("backend", RATIOS)
def test_ours_is_no_slower_than_the_library_alone(tiny_bundle: Bundle, backend: Backend) -> None:
    found = _measure(tiny_bundle, backend)
    for _ in range(MEASUREMENTS - 1):
        if _is_slower(found, backend):
            found = _measure(tiny_bundle, backend)
    assert not _is_slower(found, backend), found


@pytest.mark.parametrize(("share", "slower"), [(0.5, True), (0.0, False)])
def test_a_planted_half_is_a_slowdown_and_nothing_is_none(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, share: float, slower: bool
) -> None:
    clock, rng = FakeTime(), np.random.default_rng(0)
    clock.for_calls(monkeypatch, against)

    def takes(ms: float) -> Open:
        return lambda bundle, _: timed_engine(bundle, clock, ms, rng)

    found = _measure(tiny_bundle, "onnxruntime", takes(5.0 * (1 + share)), takes(5.0))
    assert _is_slower(found, "onnxruntime") is slower, found
