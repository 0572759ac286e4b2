"""The arithmetic of a report, on masks small enough to count by hand."""

import numpy as np
import pytest
from coronanet.model.errors import UsageError
from coronanet.model.findings import AGREEMENT_DICE, Decisions, agreement, slice_findings, study_findings
from numpy.typing import NDArray


def decisions() -> Decisions:
    """Three slices of 4 x 5: no lung, lung of 10 pixels with 4 of lesion, lung of 5 without."""
    lung, lesion, types = (np.zeros((3, 4, 5), np.uint8) for _ in range(3))
    lung[1, :2], lung[2, 0] = 1, 1
    lesion[1, 0, :4] = 1
    lesion[1, 3, 0] = 1  # outside the lung
    types[1, 0, :2], types[1, 0, 2], types[1, 3, 0] = 1, 2, 3
    return Decisions(np.array([0.99, 0.5, 0.25], np.float32), lesion, types, lung)


def test_each_slice_is_counted_on_its_own() -> None:
    none, ill, well = slice_findings(decisions())
    assert [item.slice for item in (none, ill, well)] == [1, 2, 3]
    assert none.percent_of_lung_involved is None
    assert (ill.lung_pixels, ill.lesion_pixels) == (10, 5)
    assert ill.pixels_by_type == {"ground_glass": 2, "consolidation": 1, "pleural_effusion": 1}
    assert ill.percent_of_lung_involved == pytest.approx(40.0)
    assert well.percent_of_lung_involved == 0.0


def test_a_slice_tells_its_height_where_it_is_known() -> None:
    assert [item.position_mm for item in slice_findings(decisions(), (0.0, 2.5, 7.5))] == [0.0, 2.5, 7.5]
    assert [item.position_mm for item in slice_findings(decisions())] == [None] * 3


def test_the_study_takes_its_probability_from_where_lung_is() -> None:
    whole = study_findings(decisions())
    assert whole.slices_with_lung == 2
    assert whole.highest_infected_probability == pytest.approx(0.5)
    assert whole.mean_infected_probability == pytest.approx(0.375)
    assert whole.most_suspicious_slice == 2
    assert (whole.lung_pixels, whole.lesion_pixels) == (15, 5)
    assert whole.pixels_by_type == {"ground_glass": 2, "consolidation": 1, "pleural_effusion": 1}


def test_a_study_without_lung_takes_its_probability_from_everywhere() -> None:
    empty = np.zeros((2, 4, 5), np.uint8)
    whole = study_findings(Decisions(np.array([0.1, 0.3], np.float32), empty, empty, empty))
    assert whole.highest_infected_probability == pytest.approx(0.3)
    assert whole.agreement.dice is None
    assert not whole.agreement.flagged


def row(*marked: int) -> NDArray[np.bool_]:
    mask = np.zeros(10, np.bool_)
    mask[list(marked)] = True
    return mask


def test_agreement_is_dice_and_the_share_on_which_the_networks_differ() -> None:
    found = agreement(row(0, 1, 2, 3), row(2, 3, 4))
    assert found.dice == pytest.approx(2 * 2 / 7)
    assert found.disagreeing_share == pytest.approx(3 / 5)
    assert found.flagged


@pytest.mark.parametrize(("second", "flagged"), [(row(0, 1, 2), False), (row(7, 8, 9), True), (row(), True)])
def test_little_agreement_is_flagged(second: NDArray[np.bool_], flagged: bool) -> None:
    found = agreement(row(0, 1, 2), second)
    assert found.flagged is flagged
    assert found.dice is not None
    assert (found.dice < AGREEMENT_DICE) is flagged


def test_decisions_come_from_the_tensors_of_the_ensemble() -> None:
    given = decisions()
    tensors = {
        "infected_probability": given.infected_probability[:, None],
        "lesion_mask": given.lesion_mask,
        "lesion_types": given.lesion_types,
        "lung_mask": given.lung_mask,
    }
    assert Decisions.from_outputs(tensors).infected_probability.shape == (3,)
    del tensors["lung_mask"]
    with pytest.raises(UsageError, match="lung_mask"):
        Decisions.from_outputs(tensors)


def test_masks_of_different_shapes_are_refused() -> None:
    given = decisions()
    with pytest.raises(UsageError, match="three masks of one shape"):
        Decisions(given.infected_probability, given.lesion_mask[:, :2], given.lesion_types, given.lung_mask)
