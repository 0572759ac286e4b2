"""Our engines are no slower than the library alone: a ratio of one run, in turns, against one that is written here.

What a machine, its load or a new version of a library does to speed, it does to both. What is the engine's doing shows
in every measurement, what is the machine's hardly ever in three. `docs/operations.md` has the same for networks of your
own.
"""

import time
from collections.abc import Callable
from itertools import count
from typing import Any

import onnxruntime
import openvino
import pytest
from coronanet.benchmarks.against import measure_against
from coronanet.benchmarks.inputs import phantom_slices
from coronanet.benchmarks.noise import LEAST_ROUNDS
from coronanet.benchmarks.peers import PeerEngine
from coronanet.benchmarks.report import Comparison
from coronanet.benchmarks.timing import Plan, WarmUpRule
from coronanet.benchmarks.ways import Way, open_way
from coronanet.engines.base import Engine, EngineBase, Tensors
from coronanet.engines.bundle import Bundle
from coronanet.engines.open import Backend
from coronanet.engines.predictor import Choice
from coronanet.model.tasks import TaskName
from numpy.typing import NDArray

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


def _measure(bundle: Bundle, backend: Backend, ours: Open) -> Comparison:
    """Ours over the library's, each opened twice and all in turns."""
    turns = count()

    def opener(bundle: Bundle, way: Way) -> Engine:
        return (ours if next(turns) % 2 else _library)(bundle, way)

    one: dict[TaskName, Bundle] = {TASK: bundle}
    ways = [Way(Choice(backend, "fp32", 1))]
    return measure_against(one, one, ways, [BATCH], phantom_slices(), plan=PLAN, rule=RULE, opener=opener).comparisons[
        0
    ]


def _is_slower(found: Comparison, backend: Backend) -> bool:
    """Whether the whole interval of the ratio lies beyond what is allowed and what this run calls noise."""
    assert found.verdict != "not judged"
    return found.low > RATIOS[backend] * (1 + ALLOWED) * (1 + found.noise_floor)


def _measure_until(bundle: Bundle, backend: Backend, ours: Open, *, slower: bool) -> Comparison:
    """The first of up to three measurements that finds ours slower, or not, as expected; else the last."""
    for _ in range(MEASUREMENTS - 1):
        found = _measure(bundle, backend, ours)
        if _is_slower(found, backend) == slower:
            return found
    return _measure(bundle, backend, ours)


class _Slowed(EngineBase):
    """Another engine, and then nothing for so large a share of what it took."""

    def __init__(self, engine: Engine, share: float) -> None:
        super().__init__(engine.inputs, engine.outputs, engine.max_batch)
        self._engine, self._share = engine, share

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        start = time.perf_counter()
        answer = self._engine.infer(feeds)
        until = start + (time.perf_counter() - start) * (1 + self._share)
        while time.perf_counter() < until:
            pass
        return answer


@pytest.mark.parametrize("backend", RATIOS)
def test_ours_is_no_slower_than_the_library_alone(tiny_bundle: Bundle, backend: Backend) -> None:
    found = _measure_until(tiny_bundle, backend, open_way, slower=False)
    assert not _is_slower(found, backend), found


@pytest.mark.parametrize("backend", RATIOS)
def test_a_planted_half_is_a_slowdown(tiny_bundle: Bundle, backend: Backend) -> None:
    found = _measure_until(tiny_bundle, backend, lambda bundle, way: _Slowed(open_way(bundle, way), 0.5), slower=True)
    assert _is_slower(found, backend), found
