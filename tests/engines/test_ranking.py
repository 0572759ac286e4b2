"""`auto` is measured, recorded, and never something that did not pass."""

import pytest
from coronanet.engines import ranking
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.engines.slices import phantom_slices
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TaskName

TASK: TaskName = "lung_segmentation"


@pytest.fixture(scope="module")
def ranked(bundles: dict[TaskName, Bundle]) -> ranking.Ranking:
    return ranking.rank(bundles[TASK], phantom_slices())


def test_every_candidate_is_judged_and_the_fastest_that_passed_is_chosen(
    bundles: dict[TaskName, Bundle], ranked: ranking.Ranking
) -> None:
    assert {way.choice for way in ranked.ways} == set(ranking.candidates(bundles[TASK]))
    passed = [way for way in ranked.ways if way.verdict == "passed"]
    assert passed
    latencies = [way.latency_ms for way in passed]
    assert latencies == sorted(latencies, key=lambda latency: latency or 0.0)
    assert ranked.best == passed[0].choice


def test_a_way_that_was_refused_is_not_chosen_however_fast(ranked: ranking.Ranking) -> None:
    fast = ranked.ways[0].model_copy(update={"verdict": "refused", "latency_ms": 0.001, "precision": "bf16"})
    assert ranked.model_copy(update={"ways": (fast, *ranked.ways)}).best == ranked.best


def test_where_nothing_passed_the_reasons_are_given(ranked: ranking.Ranking) -> None:
    ways = tuple(way.model_copy(update={"verdict": "refused", "reason": "too far off"}) for way in ranked.ways)
    with pytest.raises(UsageError, match=r"no engine passed parity on this machine .*too far off"):
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


def test_a_record_is_used_instead_of_measuring_again(
    bundles: dict[TaskName, Bundle], ranked: ranking.Ranking, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path))
    planted = ranked.model_copy(update={"ways": tuple(w for w in ranked.ways if w.choice == Choice())})
    ranking.write_ranking(planted)
    monkeypatch.setattr(ranking, "rank", lambda *_: pytest.fail("measured again"))
    assert ranking.choose({TASK: bundles[TASK]}) == {TASK: Choice("onnxruntime", "fp32")}
