"""Metrics on cases worked out by hand."""

import numpy as np
import pytest
from coronanet.model.metrics import agreement, auc, dice


def test_dice_counts_the_overlap_twice() -> None:
    one, other = np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool)
    assert dice(one, other) == pytest.approx(2 * 2 / 6)
    assert dice(one, one) == 1.0
    assert dice(one, ~one) == 0.0


def test_two_empty_masks_agree() -> None:
    assert dice(np.zeros(4, bool), np.zeros(4, bool)) == 1.0


def test_agreement_is_the_share_of_equal_labels() -> None:
    assert agreement(np.array([0, 1, 2, 3]), np.array([0, 1, 3, 3])) == 0.75


def test_auc_is_the_chance_that_a_positive_ranks_above_a_negative() -> None:
    scores, truth = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert auc(scores, truth) == pytest.approx(0.75)
    assert auc(np.array([0.5, 0.5]), np.array([0, 1])) == pytest.approx(0.5)
    assert np.isnan(auc(scores, np.zeros(4)))
