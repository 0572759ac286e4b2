"""Bootstrap intervals against the metrics themselves and against what statistics says they must be."""

import numpy as np
import pytest
from coronanet.model.intervals import (
    Resamples,
    Statistic,
    auc_of,
    calibration_error_of,
    estimate,
    mean_of,
    ratio_of,
    resample,
)
from coronanet.model.metrics import auc, calibration_error


def _as_drawn(resamples: Resamples, index: int) -> list[int]:
    """The items of one resample, each as often as it was drawn."""
    return np.repeat(np.arange(resamples.weights.shape[1]), resamples.weights[index].astype(int)).tolist()


def test_each_statistic_of_a_resample_is_the_metric_of_the_items_drawn() -> None:
    rng = np.random.default_rng(1)
    probability, truth = rng.random(40), rng.random(40) < 0.5
    top, bottom = rng.random(40), rng.random(40) + 1
    resamples = resample([str(i) for i in range(40)], resamples=5)
    statistics: list[tuple[Statistic, object]] = [
        (mean_of(top), lambda at: top[at].mean()),
        (ratio_of(top, bottom), lambda at: top[at].sum() / bottom[at].sum()),
        (auc_of(probability, truth), lambda at: auc(probability[at], truth[at])),
        (calibration_error_of(probability, truth), lambda at: calibration_error(probability[at], truth[at])),
    ]
    for statistic, metric in statistics:
        assert callable(metric)
        direct = [metric(_as_drawn(resamples, index)) for index in range(5)]
        assert statistic(resamples.weights) == pytest.approx(direct)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(2).normal(0.7, 0.1, 200)
    found = estimate(mean_of(values), resample([str(i) for i in range(200)]))
    assert found is not None
    assert found.value == pytest.approx(values.mean())
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * values.std() / np.sqrt(200), rel=0.1)


def test_patients_are_drawn_whole_and_widen_the_interval() -> None:
    patients = np.repeat(np.arange(20), 10)
    values = np.random.default_rng(4).random(20)[patients]
    by_patient = resample([f"p{p}" for p in patients])
    assert by_patient.unit == "20 patients"
    for weights in by_patient.weights[:50]:
        assert all(len(set(weights[patients == p])) == 1 for p in range(20))
    by_image = resample([str(i) for i in range(200)])
    assert by_image.unit == "200 images"
    widths = [
        (found.high or 0) - (found.low or 0)
        for found in (estimate(mean_of(values), one) for one in (by_patient, by_image))
        if found is not None
    ]
    assert widths[0] > 2 * widths[1]


def test_too_few_patients_leave_only_their_images_to_draw_and_the_unit_says_so() -> None:
    drawn = resample(["4"] * 10 + ["5"] * 20)
    assert drawn.unit == "30 images of 2 patients"
    assert len(set(drawn.weights[0, :10].tolist())) > 1


def test_the_same_seed_gives_the_same_interval() -> None:
    values, groups = np.random.default_rng(0).random(30), [str(i) for i in range(30)]
    assert estimate(mean_of(values), resample(groups)) == estimate(mean_of(values), resample(groups))
    assert estimate(mean_of(values), resample(groups)) != estimate(mean_of(values), resample(groups, seed=1))


def test_a_score_that_the_items_do_not_have_is_none() -> None:
    drawn = resample([str(i) for i in range(12)])
    assert estimate(mean_of([float("nan")] * 12), drawn) is None
    assert estimate(auc_of(np.arange(12), np.ones(12, bool)), drawn) is None


def test_items_without_a_value_do_not_count() -> None:
    found = estimate(mean_of([1.0, float("nan"), 0.0, float("nan")] * 3), resample([str(i) for i in range(12)]))
    assert found is not None
    assert found.value == 0.5
