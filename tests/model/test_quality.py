"""Poor input is called so, good input is not."""

from dataclasses import replace

import numpy as np
import pytest
from coronanet.model.assessment import Assessment, assess
from coronanet.model.findings import Decisions
from coronanet.model.phantom import make_labelled_phantom
from coronanet.model.study import NiftiGrid, Study


@pytest.fixture(scope="module")
def good() -> tuple[Study, Decisions]:
    phantom = make_labelled_phantom(size=128, slices=40)
    study = replace(phantom.study, spacing_mm=(6.0, 0.7, 0.7))
    probability = np.full(40, 0.9, np.float32)
    return study, Decisions(probability, phantom.lesion_mask, phantom.lesion_types, phantom.lung_mask)


def names(assessment: Assessment) -> list[str]:
    return [flag.name for flag in assessment.quality]


def test_a_good_study_has_no_flag_and_a_score(good: tuple[Study, Decisions]) -> None:
    found = assess(replace(good[0], spacing_mm=(6.0, 1.4, 1.4)), good[1])
    assert names(found) == []
    assert found.severity.surrogate_score is not None
    assert [item.position_mm for item in found.slices[:3]] == [0.0, 6.0, 12.0]


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"spacing_mm": (12.0, 1.4, 1.4)}, "spacing"),
        ({"spacing_mm": (6.0, 2.8, 2.8)}, "spacing"),
        ({"spacing_mm": (6.0, 1.4, 1.2)}, "pixels not square"),
        ({"spacing_mm": (6.0, 1.4, 1.4), "positions_mm": np.r_[0:20, 22:42] * 6.0}, "spacing"),
        ({"spacing_mm": (6.0, 1.4, 1.4), "window_hu": (-1350.0, 150.0)}, "window stated"),
        ({"spacing_mm": (6.0, 1.4, 1.4), "affine": None}, "sides unknown"),
        (
            {"spacing_mm": (6.0, 1.4, 1.4), "nifti": NiftiGrid(np.eye(4), (1, 1, 1), np.eye(3), (0, 0))},
            "sides unknown",
        ),
    ],
)
def test_each_flaw_is_flagged_alone(good: tuple[Study, Decisions], changes: dict[str, object], flag: str) -> None:
    found = assess(replace(good[0], **changes), good[1])
    assert names(found) == [flag]
    assert found.quality[0].text


def test_few_slices_and_cut_off_lungs_are_flagged(good: tuple[Study, Decisions]) -> None:
    study, decisions = good
    part = replace(study, image=study.image[10:22], spacing_mm=(6.0, 1.4, 1.4))
    few = Decisions(
        decisions.infected_probability[10:22],
        decisions.lesion_mask[10:22],
        decisions.lesion_types[10:22],
        decisions.lung_mask[10:22],
    )
    found = assess(part, few)
    assert names(found) == ["few slices", "lungs incomplete"]
    assert found.quality[1].text == "the lungs are cut off towards the feet and the head"


def test_another_part_of_the_body_is_finished_and_flagged(good: tuple[Study, Decisions]) -> None:
    study, decisions = good
    nothing = np.zeros_like(decisions.lung_mask)
    found = assess(study, Decisions(decisions.infected_probability * 0, nothing, nothing, nothing))
    assert ("lungs incomplete", "no lung was found") in [(flag.name, flag.text) for flag in found.quality]
    assert found.severity.surrogate_score is None
    assert found.severity.whole.percent_involved is None
    assert {item.verdict for item in found.risk} == {"cannot be said"}


@pytest.mark.parametrize(
    ("probability", "lesions", "flagged"),
    [(0.9, False, True), (0.1, True, True), (0.9, True, False), (0.1, False, False)],
)
def test_a_classifier_that_tells_another_story_is_flagged(
    good: tuple[Study, Decisions], probability: float, lesions: bool, flagged: bool
) -> None:
    study, decisions = good
    types = decisions.lesion_types * np.uint8(lesions)
    given = Decisions(
        np.full(len(types), probability, np.float32), (types > 0).astype(np.uint8), types, decisions.lung_mask
    )
    assert ("classifier disagrees" in names(assess(study, given))) is flagged


def test_lesion_networks_that_disagree_are_flagged(good: tuple[Study, Decisions]) -> None:
    study, decisions = good
    given = replace(decisions, lesion_mask=np.roll(decisions.lesion_mask, 20, axis=2))
    assert "networks disagree" in names(assess(study, given))
