"""Metrics on cases worked out by hand, and against torchmetrics where it is installed."""

import itertools

import numpy as np
import pytest
from coronanet.model.metrics import (
    adjusted_rand_loss,
    agreement,
    auc,
    calibration_error,
    contingency,
    dice,
    iou,
    rand_error,
    sensitivity,
    specificity,
)
from numpy.typing import NDArray

TRUTH = np.array([1, 1, 1, 0, 0, 0, 0, 0], bool)
CALLED = np.array([1, 1, 0, 1, 0, 0, 0, 0], bool)


def test_dice_counts_the_overlap_twice() -> None:
    one, other = np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool)
    assert dice(one, other) == pytest.approx(2 * 2 / 6)
    assert dice(one, one) == 1.0
    assert dice(one, ~one) == 0.0


def test_two_empty_masks_agree() -> None:
    assert dice(np.zeros(4, bool), np.zeros(4, bool)) == 1.0
    assert iou(np.zeros(4, bool), np.zeros(4, bool)) == 1.0


def test_iou_is_the_overlap_over_the_union() -> None:
    assert iou(CALLED, TRUTH) == pytest.approx(2 / 4)


def test_sensitivity_and_specificity_are_shares_of_the_truth() -> None:
    assert sensitivity(CALLED, TRUTH) == pytest.approx(2 / 3)
    assert specificity(CALLED, TRUTH) == pytest.approx(4 / 5)
    assert np.isnan(sensitivity(CALLED, np.zeros(8, bool)))
    assert np.isnan(specificity(CALLED, np.ones(8, bool)))


def test_agreement_is_the_share_of_equal_labels() -> None:
    assert agreement(np.array([0, 1, 2, 3]), np.array([0, 1, 3, 3])) == 0.75


def test_auc_is_the_chance_that_a_positive_ranks_above_a_negative() -> None:
    scores, truth = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert auc(scores, truth) == pytest.approx(0.75)
    assert auc(np.array([0.5, 0.5]), np.array([0, 1])) == pytest.approx(0.5)
    assert np.isnan(auc(scores, np.zeros(4)))


def test_contingency_counts_every_pair_of_labels() -> None:
    table = contingency(np.array([[0, 1], [1, 2]]), np.array([[0, 1], [0, 1]]))
    assert table.tolist() == [[1, 0], [1, 1], [0, 1]]
    with pytest.raises(ValueError, match="one shape"):
        contingency(np.zeros(3, np.uint8), np.zeros(4, np.uint8))


def test_rand_scores_of_a_case_worked_out_by_hand() -> None:
    """The example of scikit-learn's guide: 15 pairs, of which 10 agree; 2 lie together in both, 3 and 6 in one."""
    one, other = np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 2, 2])
    assert rand_error(one, other) == pytest.approx(1 - 10 / 15)
    chance = 6 * 3 / 15
    index = (2 - chance) / ((6 + 3) / 2 - chance)
    assert index == pytest.approx(0.24242424)
    assert adjusted_rand_loss(one, other) == pytest.approx(1 - (index + 1) / 2)


def _rand_error_by_pairs(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    pairs = list(itertools.combinations(zip(one.tolist(), other.tolist(), strict=True), 2))
    return sum((a[0] == b[0]) != (a[1] == b[1]) for a, b in pairs) / len(pairs)


@pytest.mark.parametrize("classes", [2, 4])
def test_rand_error_is_the_share_of_pixel_pairs_judged_differently(classes: int) -> None:
    rng = np.random.default_rng(classes)
    one, other = (rng.integers(0, classes, 40).astype(np.uint8) for _ in range(2))
    assert rand_error(one, other) == pytest.approx(_rand_error_by_pairs(one, other), abs=1e-12)


def test_rand_scores_do_not_care_how_the_classes_are_called() -> None:
    one = np.array([0, 0, 1, 2, 2], np.uint8)
    renamed = np.array([7, 7, 0, 3, 3], np.uint8)
    assert rand_error(one, renamed) == 0.0
    assert adjusted_rand_loss(one, renamed) == 0.0


def test_rand_scores_of_maps_without_anything_to_tell_apart() -> None:
    empty, full = np.zeros((3, 3), bool), np.ones((3, 3), bool)
    assert rand_error(empty, full) == 0.0
    assert adjusted_rand_loss(empty, full) == 0.0
    half = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 1]], bool)
    assert adjusted_rand_loss(empty, half) == pytest.approx(0.5)
    assert rand_error(np.zeros(1, bool), np.ones(1, bool)) == 0.0


def test_rand_scores_stay_exact_where_64_bits_do_not_reach() -> None:
    """At 4096 x 4096 the products pass 2**63; one pixel apart is one pixel apart."""
    one = np.zeros((4096, 4096), bool)
    one[:, :2048] = True
    other = one.copy()
    other[0, 0] = False
    count = one.size
    assert rand_error(one, other) == (count - 1) / (count * (count - 1) // 2)
    assert 0 < adjusted_rand_loss(one, other) < 1e-6


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_rand_scores_are_those_of_torchmetrics() -> None:
    clustering = pytest.importorskip("torchmetrics.functional.clustering")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    one = rng.integers(0, 3, 500)
    other = np.where(rng.random(500) < 0.7, one, rng.integers(0, 3, 500))
    pair = torch.from_numpy(one), torch.from_numpy(other)
    assert rand_error(one, other) == pytest.approx(1 - float(clustering.rand_score(*pair)), abs=1e-5)
    adjusted = float(clustering.adjusted_rand_score(*pair))
    assert adjusted_rand_loss(one, other) == pytest.approx(1 - (adjusted + 1) / 2, abs=1e-5)


def test_calibration_error_weighs_the_gap_of_each_bin() -> None:
    """Two bins: .1 and .3 with none true (gap .2, half of the members), .9 and .9 with one true (gap .4)."""
    probability, truth = np.array([0.1, 0.3, 0.9, 0.9]), np.array([0, 0, 1, 0], bool)
    assert calibration_error(probability, truth, bins=2) == pytest.approx(0.5 * 0.2 + 0.5 * 0.4)
    assert calibration_error(np.array([1.0, 0.0]), np.array([True, False])) == 0.0
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0, bool)))


def test_calibration_error_is_that_of_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    probability = rng.random(400).astype(np.float32)
    truth = rng.random(400) < probability**2
    theirs = classification.binary_calibration_error(torch.from_numpy(probability), torch.from_numpy(truth), n_bins=10)
    assert calibration_error(probability, truth) == pytest.approx(float(theirs), abs=1e-5)
