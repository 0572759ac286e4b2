"""`auto` is measured, recorded, and never something that did not pass."""

from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from coronanet.engines import ranking
from coronanet.engines.base import EngineBase, Tensors, TensorSpec
from coronanet.engines.bundle import Bundle, Precision
from coronanet.engines.onnxruntime_engine import OnnxRuntimeEngine
from coronanet.engines.open import open_engine
from coronanet.engines.openvino_engine import OpenVinoEngine
from coronanet.engines.predictor import Choice
from coronanet.engines.slices import GateSlices, phantom_slices
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TaskName
from numpy.typing import NDArray

TASK: TaskName = "lung_segmentation"
REDUCED_FILES: tuple[Precision, ...] = ("fp16", "int8")


@pytest.fixture(scope="module")
def ranked(bundles: dict[TaskName, Bundle]) -> ranking.Ranking:
    return ranking.rank(bundles[TASK], phantom_slices())


def test_every_candidate_is_judged_and_the_fastest_that_passed_is_chosen(
    bundles: dict[TaskName, Bundle], ranked: ranking.Ranking
) -> None:
    assert {way.choice for way in ranked.ways} == set(ranking.candidates(bundles[TASK]))
    passed = [way for way in ranked.ways if way.verdict == "passed"]
    assert passed
    assert all(way.latency_ms for way in passed)
    assert ranked.ways == ranking.best_first(reversed(ranked.ways))
    assert ranked.best == passed[0].choice


@pytest.mark.parametrize(
    ("ms", "best"),
    [
        ({"fp32": 10.0, "int8": 9.9}, "fp32"),
        ({"fp32": 10.0, "int8": 9.7}, "int8"),
        ({"fp32": 10.0, "bf16": 9.85, "int8": 9.7}, "bf16"),
        ({"fp32": 20.0, "fp16": 10.1, "int8": 10.0}, "fp16"),
        ({"fp32": 20.0, "fp16": 10.1, "bf16": 10.0}, "fp16"),
        ({"fp32": 20.0, "fp16": 10.3, "int8": 10.0}, "int8"),
    ],
)
def test_of_ways_that_are_as_fast_the_most_exact_is_best_and_only_what_is_best_is_worth_it(
    ranked: ranking.Ranking, ms: dict[Precision, float], best: Precision
) -> None:
    assert ranked.ways[0].verdict == "passed"
    backends = {"bf16": "openvino"}
    ways = [
        ranked.ways[0].model_copy(
            update={"backend": backends.get(name, "onnxruntime"), "precision": name, "latency_ms": took}
        )
        for name, took in ms.items()
    ]
    for order in (ways, ways[::-1]):
        assert ranking.best_first(order)[0].precision == best
        for precision in REDUCED_FILES:
            wanted = "passed" if precision == best else "refused" if precision in ms else "not_run"
            assert ranking.worth_it(order, precision).verdict == wanted


def test_ways_are_timed_in_turns_and_each_is_the_first_as_often(
    ranked: ranking.Ranking, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Choice] = []

    class Told(EngineBase):
        def __init__(self, choice: Choice) -> None:
            super().__init__((TensorSpec("pixels", "float32", (-1, 1, 4, 4)),), (), 1)
            self.choice = choice

        def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
            asked.append(self.choice)
            return {}

    choices = [Choice("onnxruntime"), Choice("openvino"), Choice("openvino", "bf16")]
    opened = SimpleNamespace(open=lambda _, choice: nullcontext(SimpleNamespace(network=Told(choice))))
    monkeypatch.setattr(ranking, "candidates", lambda _: choices)
    monkeypatch.setattr(ranking, "Predictor", opened)
    monkeypatch.setattr(ranking, "ROUNDS", 12)
    monkeypatch.setattr(ranking, "TOO_SLOW", np.inf)
    known = {
        choice: ranked.ways[0].model_copy(update={"backend": choice.backend, "precision": choice.precision})
        for choice in choices
    }
    untold: Any = None
    ranking.measure(tiny_bundle, untold, margin=0.0, known=known)
    turns = [asked[start : start + 3] for start in range(0, len(asked), 3)]
    assert all(set(turn) == set(choices) for turn in turns)
    assert Counter(turn[0] for turn in turns) == dict.fromkeys(choices, 5)


def test_of_a_record_in_another_order_the_best_is_the_same(ranked: ranking.Ranking) -> None:
    exact = ranked.ways[0].model_copy(update={"backend": "onnxruntime", "precision": "fp32", "latency_ms": 10.0})
    quick = exact.model_copy(update={"precision": "int8", "latency_ms": 9.95})
    assert ranked.model_copy(update={"ways": (quick, exact)}).best == exact.choice


def test_a_way_that_was_refused_is_not_chosen_however_fast(ranked: ranking.Ranking) -> None:
    fast = ranked.ways[0].model_copy(update={"verdict": "refused", "latency_ms": 0.001, "precision": "bf16"})
    assert ranked.model_copy(update={"ways": (fast, *ranked.ways)}).best == ranked.best


def test_where_nothing_passed_the_reasons_are_given(ranked: ranking.Ranking) -> None:
    ways = tuple(way.model_copy(update={"verdict": "refused", "reason": "too far off"}) for way in ranked.ways)
    with pytest.raises(UsageError, match=r"no engine passed the gates on this machine .*too far off"):
        _ = ranked.model_copy(update={"ways": ways}).best


def test_the_record_is_read_back_and_belongs_to_this_bundle_and_machine(
    bundles: dict[TaskName, Bundle], ranked: ranking.Ranking, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path))
    assert ranking.read_ranking(bundles[TASK]) is None
    ranking.write_ranking(ranked)
    assert ranking.read_ranking(bundles[TASK]) == ranked
    assert ranking.read_ranking(bundles["classification"]) is None
    monkeypatch.setattr(ranking, "machine", lambda: {"processor": "another"})
    assert ranking.read_ranking(bundles[TASK]) is None


def test_auto_opens_what_the_record_says_is_fastest(
    bundles: dict[TaskName, Bundle], ranked: ranking.Ranking, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path))
    slow = tuple(way.model_copy(update={"latency_ms": 99.0}) for way in ranked.ways if way.choice != Choice())
    first = next(way for way in ranked.ways if way.choice == Choice()).model_copy(update={"latency_ms": 1.0})
    ranking.write_ranking(ranked.model_copy(update={"ways": (first, *slow), "real": True}))
    with open_engine(bundles[TASK], backend="auto") as engine:
        assert isinstance(engine, OnnxRuntimeEngine)
    with pytest.raises(UsageError, match="auto chooses for networks alone"):
        open_engine(bundles[TASK], backend="auto", graph="decide")


def test_a_reduced_precision_is_not_chosen_before_its_gates_ran(ranked: ranking.Ranking) -> None:
    """On the phantom nothing tells the truth, so non-inferiority has not run."""
    assert {way.verdict for way in ranked.ways if way.precision != "fp32"} <= {"not_run", "refused"}
    assert ranked.best.precision == "fp32"


@pytest.mark.parametrize("good_calls", [0, 3])
def test_an_engine_that_fails_is_passed_over_with_its_reason_and_the_others_are_ranked(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, good_calls: int
) -> None:
    """OpenVINO dies on its first slice, or only when it is timed."""
    phantom = phantom_slices()
    slices = GateSlices(phantom.name, phantom.samples[:good_calls] or phantom.samples[:1], real=False)
    infer, calls = OpenVinoEngine.infer, iter(range(1000))

    def fail(engine: OpenVinoEngine, feeds: Tensors) -> dict[str, NDArray[Any]]:
        if next(calls) >= good_calls:
            raise RuntimeError("the device is lost\nat line 7")
        return infer(engine, feeds)

    monkeypatch.setattr(ranking, "candidates", lambda _: [Choice("openvino", "fp32"), Choice("onnxruntime", "fp32")])
    monkeypatch.setattr(OpenVinoEngine, "infer", fail)
    ways = ranking.rank(tiny_bundle, slices).ways
    assert [(way.choice, way.verdict) for way in ways] == [
        (Choice("onnxruntime", "fp32"), "passed"),
        (Choice("openvino", "fp32"), "not_run"),
    ]
    assert ways[1].reason == "the device is lost"
    assert ways[1].latency_ms is None


@pytest.mark.parametrize(("ms", "verdict"), [(5.0, "passed"), (9.9, "refused"), (20.0, "refused")])
def test_a_file_is_worth_it_where_it_is_faster_than_the_fastest_without_it(
    ranked: ranking.Ranking, ms: float, verdict: str
) -> None:
    other = ranked.ways[0].model_copy(update={"latency_ms": 10.0})
    own = other.model_copy(update={"precision": "int8", "latency_ms": ms})
    gate = ranking.worth_it([other, own], "int8")
    assert gate.verdict == verdict
    assert gate.figures["speedup"] == 10 / ms
    assert ("not faster by 2 %, so not selected" in gate.reason) is (verdict == "refused")
    assert ranking.worth_it([other], "int8").verdict == "not_run"


def test_a_record_is_used_instead_of_measuring_again(
    bundles: dict[TaskName, Bundle], ranked: ranking.Ranking, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path))
    planted = ranked.model_copy(update={"ways": tuple(w for w in ranked.ways if w.choice == Choice()), "real": True})
    ranking.write_ranking(planted)
    monkeypatch.setattr(ranking, "rank", lambda *_, **__: pytest.fail("measured again"))
    assert ranking.choose({TASK: bundles[TASK]}) == {TASK: Choice("onnxruntime", "fp32")}


def test_a_record_of_the_phantom_is_measured_again_once_real_slices_are_there(
    bundles: dict[TaskName, Bundle],
    ranked: ranking.Ranking,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: object,
) -> None:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path))
    assert not ranked.real
    ranking.write_ranking(ranked)
    told: list[str] = []
    monkeypatch.setattr(ranking, "rank", lambda *_, **__: ranked.model_copy(update={"real": True}))
    ranking.choose({TASK: bundles[TASK]}, data=data, progress=told.append)
    ranking.choose({TASK: bundles[TASK]}, data=data, progress=told.append)
    assert told == [TASK]


def test_where_no_real_slices_are_a_record_of_the_phantom_stays(
    tiny_bundle: Bundle, ranked: ranking.Ranking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path / "home"))
    ranking.write_ranking(ranked.model_copy(update={"bundle_sha256": tiny_bundle.sha256}))
    monkeypatch.setattr(ranking, "rank", lambda *_, **__: pytest.fail("measured again"))
    for folder in ("empty", "own/images"):
        (tmp_path / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "own" / "images" / "a.png"), np.zeros((64, 64), np.uint8))
    for data in (tmp_path / "empty", tmp_path / "own"):
        assert ranking.choose({TASK: tiny_bundle}, data=data) == {TASK: ranked.best}


def test_own_pictures_whose_window_nobody_named_leave_the_phantom(
    tiny_bundle: Bundle, ranked: ranking.Ranking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path / "home"))
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "a.png"), np.zeros((64, 64), np.uint8))
    seen: list[bool] = []

    def rank(_: Bundle, slices: GateSlices, **__: object) -> ranking.Ranking:
        seen.append(slices.real)
        return ranked

    monkeypatch.setattr(ranking, "rank", rank)
    ranking.choose({TASK: tiny_bundle}, data=tmp_path)
    assert seen == [False]


def test_a_record_whose_best_is_no_way_any_more_is_not_used(
    bundles: dict[TaskName, Bundle], ranked: ranking.Ranking, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path))
    ranking.write_ranking(ranked)
    left = [choice for choice in ranking.candidates(bundles[TASK]) if choice != ranked.best]
    monkeypatch.setattr(ranking, "candidates", lambda _: left)
    assert ranking.read_ranking(bundles[TASK]) is None


def test_what_a_gpu_way_runs_on_belongs_to_the_machine() -> None:
    assert ranking.machine()["torch"] == torch.__version__
