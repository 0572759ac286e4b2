"""The arithmetic of a report, on masks small enough to count by hand."""

from dataclasses import replace

import numpy as np
import pytest
from coronanet.model.assessment import assess
from coronanet.model.errors import UsageError
from coronanet.model.findings import AGREEMENT_DICE, Decisions, SliceFindings, StudyFindings, agreement
from coronanet.model.study import Study


def decisions() -> Decisions:
    """Three slices of 4 x 5: no lung, lung of 10 pixels with 4 of lesion, lung of 5 without."""
    lung, lesion, types = (np.zeros((3, 4, 5), np.uint8) for _ in range(3))
    lung[1, :2], lung[2, 0] = 1, 1
    lesion[1, 0, :4] = 1
    lesion[1, 3, 0] = 1  # outside the lung
    types[1, 0, :2], types[1, 0, 2], types[1, 3, 0] = 1, 2, 3
    return Decisions(np.array([0.99, 0.5, 0.25], np.float32), lesion, types, lung)


def slices_of(given: Decisions) -> tuple[SliceFindings, ...]:
    return assess(Study("a", np.zeros(given.lung_mask.shape, np.int16), "image"), given).slices


def whole_of(given: Decisions) -> StudyFindings:
    return assess(Study("a", np.zeros(given.lung_mask.shape, np.int16), "image"), given).findings


def test_each_slice_is_counted_on_its_own() -> None:
    none, ill, well = slices_of(decisions())
    assert [item.slice for item in (none, ill, well)] == [1, 2, 3]
    assert none.percent_of_lung_involved is None
    assert (ill.lung_pixels, ill.lesion_pixels) == (10, 5)
    assert ill.pixels_by_type == {"ground_glass": 2, "consolidation": 1, "pleural_effusion": 1}
    assert ill.percent_of_lung_involved == pytest.approx(40.0)
    assert well.percent_of_lung_involved == 0.0


def test_a_slice_tells_its_height_where_it_is_known() -> None:
    given = decisions()
    study = Study("a", np.zeros(given.lung_mask.shape, np.int16), "dicom", (2.5, 1.0, 1.0))
    uneven = replace(study, positions_mm=np.array([10.0, 12.5, 17.5]))
    assert [item.position_mm for item in assess(study, given).slices] == [0.0, 2.5, 5.0]
    assert [item.position_mm for item in assess(uneven, given).slices] == [0.0, 2.5, 7.5]
    assert [item.position_mm for item in slices_of(given)] == [None] * 3


def test_the_study_takes_its_probability_from_where_lung_is() -> None:
    whole = whole_of(decisions())
    assert whole.slices_with_lung == 2
    assert whole.highest_infected_probability == pytest.approx(0.5)
    assert whole.mean_infected_probability == pytest.approx(0.375)
    assert whole.most_suspicious_slice == 2
    assert (whole.lung_pixels, whole.lesion_pixels) == (15, 5)
    assert whole.pixels_by_type == {"ground_glass": 2, "consolidation": 1, "pleural_effusion": 1}


def test_a_study_without_lung_takes_its_probability_from_everywhere() -> None:
    empty = np.zeros((2, 4, 5), np.uint8)
    whole = whole_of(Decisions(np.array([0.1, 0.3], np.float32), empty, empty, empty))
    assert whole.highest_infected_probability == pytest.approx(0.3)
    assert whole.agreement.dice is None
    assert not whole.agreement.flagged


def test_agreement_is_dice_and_the_share_on_which_the_networks_differ() -> None:
    given = decisions()
    given.lesion_types[1, 1, :3] = 1  # 7 pixels of either kind, 4 of them marked by both
    found = whole_of(given).agreement
    assert found.dice == pytest.approx(2 * 4 / (5 + 7))
    assert found.disagreeing_share == pytest.approx(4 / 8)
    assert found.flagged


@pytest.mark.parametrize(("other", "both", "flagged"), [(3, 3, False), (3, 0, True), (0, 0, True)])
def test_little_agreement_is_flagged(other: int, both: int, flagged: bool) -> None:
    found = agreement(3, other, both)
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
