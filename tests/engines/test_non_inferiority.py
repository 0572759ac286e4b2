"""Non-inferiority judges by the truth, and says no for the right reason."""

from dataclasses import replace

import numpy as np
import pytest
from coronanet.engines.non_inferiority import judge
from coronanet.engines.parity import Answer, Reference
from coronanet.engines.samples import Sample
from coronanet.engines.slices import GateSlices
from coronanet.export.shipped import PRETRAINED
from coronanet.model.card import Card
from coronanet.model.tasks import TaskName
from numpy.typing import NDArray

SLICES = 24
SIDE = 40


def disc(radius: float) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    return (rows**2 + columns**2 < radius**2).astype(np.uint8)


def reference(task: TaskName, decisions: list[NDArray[np.float32]] | list[NDArray[np.uint8]]) -> Reference:
    """Slices whose truth is a disc in every second one (lesions) or in all (lungs), with the reference's decisions."""
    image = np.zeros((SIDE, SIDE), np.int16)
    samples = tuple(
        Sample(image, disc(10) * np.uint8(number % 2), "types", f"patient-{number}", disc(10))
        for number in range(SLICES)
    )
    blank = np.zeros((1, 1, 1, 1), np.float32)
    answers = tuple(Answer(image[None], blank, blank, decision) for decision in decisions)
    card = Card.load(PRETRAINED / task / "card.json")
    return Reference("reference", card, GateSlices("slices", samples, real=True), answers)


def masks(radius: float) -> list[NDArray[np.uint8]]:
    return [disc(radius)[None] for _ in range(SLICES)]


def scores(shift: float = 0.0) -> list[NDArray[np.float32]]:
    """Infected slices at .6 to .9, others at .1 to .4, the infected moved by ``shift``."""
    spread = np.linspace(0, 0.3, SLICES)
    return [np.array([[(0.6 + shift if number % 2 else 0.1) + spread[number]]], np.float32) for number in range(SLICES)]


def test_the_same_decisions_pass_with_no_change() -> None:
    gate = judge(reference("lung_segmentation", masks(9)), masks(9))
    assert gate.verdict == "passed"
    assert gate.figures["dice_change"] == gate.figures["flips"] == 0
    assert 0.8 < gate.figures["dice"] < 1


def test_better_masks_pass_and_worse_are_refused_with_the_figures() -> None:
    assert judge(reference("lung_segmentation", masks(9.8)), masks(10)).verdict == "passed"
    gate = judge(reference("lung_segmentation", masks(10)), masks(9.8))
    assert gate.verdict == "refused"
    assert gate.reason.startswith("dice changes by -0.0")
    assert gate.figures["dice_change_low"] < -0.005


def test_a_wider_margin_lets_the_same_masks_through() -> None:
    one = reference("lung_segmentation", masks(10))
    assert judge(one, masks(9.8), margin=0.1).verdict == "passed"


def test_a_few_bad_patients_are_enough_for_the_interval_to_refuse() -> None:
    spoilt = masks(10)
    for number in (3, 11):
        spoilt[number] = disc(8)[None]
    gate = judge(reference("lung_segmentation", masks(10)), spoilt, margin=0.04)
    assert gate.verdict == "refused"
    assert gate.figures["dice_change"] > -0.04 > gate.figures["dice_change_low"]


def test_a_classifier_whose_order_changes_is_refused_by_its_auc() -> None:
    one = reference("classification", scores())
    assert judge(one, scores(0.05)).verdict == "passed"
    gate = judge(one, scores(-0.5))
    assert gate.verdict == "refused"
    assert "auc changes by -" in gate.reason


def test_labels_that_flip_are_refused_though_the_order_holds() -> None:
    gate = judge(reference("classification", scores()), [score * np.float32(0.1) for score in scores()])
    assert gate.verdict == "refused"
    assert "50.00% of the labels flip" in gate.reason


@pytest.mark.parametrize("real", [True, False])
def test_without_truth_it_is_not_run(real: bool) -> None:
    one = reference("lung_segmentation", masks(10))
    blind = tuple(replace(sample, lung=None) for sample in one.slices.samples)
    samples = blind if real else one.slices.samples
    gate = judge(replace(one, slices=GateSlices("slices", samples, real=real)), masks(10))
    assert gate.verdict == "not_run"
    assert ("only 0 slices tell the truth" if real else "--data DIR") in gate.reason
