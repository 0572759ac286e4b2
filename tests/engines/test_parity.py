"""The parity gate says no for the right reason, and only then."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from coronanet.engines.base import EngineBase, Tensors
from coronanet.engines.bundle import Bundle
from coronanet.engines.parity import Reference, compare
from coronanet.engines.predictor import REFERENCE, Predictor
from coronanet.engines.slices import phantom_slices
from coronanet.model.errors import RefusedError
from coronanet.model.tasks import TaskName
from numpy.typing import NDArray

Bend = Callable[[NDArray[Any]], NDArray[Any]]


class Bent(EngineBase):
    """The reference engine with its output bent."""

    def __init__(self, engine: Any, bend: Bend) -> None:
        super().__init__(engine.inputs, engine.outputs, engine.max_batch)
        self._engine, self._bend = engine, bend

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        return {name: self._bend(array) for name, array in self._engine.infer(feeds).items()}


@pytest.fixture(scope="module")
def references(bundles: dict[TaskName, Bundle]) -> dict[TaskName, tuple[Predictor, Reference]]:
    slices = replace(phantom_slices(), samples=phantom_slices().samples[2:6])
    opened: dict[TaskName, tuple[Predictor, Reference]] = {}
    for task in ("classification", "multiclass_segmentation"):
        predictor = Predictor.open(bundles[task], REFERENCE)
        opened[task] = (predictor, Reference.of(predictor, bundles[task].card, slices, name="torch fp32"))
    return opened


def with_network(predictor: Predictor, bend: Bend) -> Predictor:
    return Predictor(predictor.preprocess, Bent(predictor.network, bend), predictor.decide)


@pytest.mark.parametrize("task", ["classification", "multiclass_segmentation"])
def test_the_reference_agrees_with_itself(
    references: dict[TaskName, tuple[Predictor, Reference]], task: TaskName
) -> None:
    predictor, reference = references[task]
    for graph in ("preprocess", "network", "decide"):
        evidence = compare(graph, reference, predictor).evidence
        assert evidence.verdict == "passed"
        assert evidence.max_difference == 0
        assert evidence.label_agreement == 1


def test_a_classifier_that_always_answers_the_same_is_refused_though_its_labels_agree(
    references: dict[TaskName, tuple[Predictor, Reference]],
) -> None:
    predictor, reference = references["classification"]
    side = np.sign(np.median([answer.logits.item() for answer in reference.answers]))
    keep = tuple(answer for answer in reference.answers if np.sign(answer.logits.item()) == side)
    one_sided = Reference(reference.name, reference.card, reference.slices, keep)
    constant = with_network(predictor, lambda logits: np.full_like(logits, 9.0 * side))
    evidence = compare("network", one_sided, constant).evidence
    assert evidence.label_agreement == 1
    assert evidence.verdict == "refused"
    assert "a probability differs by" in evidence.reason


def test_a_label_that_vanishes_is_refused_by_name(
    references: dict[TaskName, tuple[Predictor, Reference]],
) -> None:
    predictor, reference = references["multiclass_segmentation"]
    card = reference.card.model_copy(update={"tolerance": 0.5})
    blind = with_network(predictor, lambda logits: np.where(np.arange(4)[:, None, None] == 1, -50, logits))
    evidence = compare("network", Reference(reference.name, card, reference.slices, reference.answers), blind).evidence
    assert evidence.verdict == "refused"
    assert "dice_ground_glass with the reference is 0.0000" in evidence.reason


def test_labels_beyond_the_tolerance_are_refused(
    references: dict[TaskName, tuple[Predictor, Reference]],
) -> None:
    predictor, reference = references["multiclass_segmentation"]
    evidence = compare(
        "network", reference, with_network(predictor, lambda logits: np.roll(logits, 9, axis=3))
    ).evidence
    assert evidence.verdict == "refused"
    assert "of the labels differ" in evidence.reason


def test_an_output_that_is_not_finite_is_refused(
    references: dict[TaskName, tuple[Predictor, Reference]],
) -> None:
    predictor, reference = references["multiclass_segmentation"]
    evidence = compare(
        "network", reference, with_network(predictor, lambda logits: logits * np.float32("nan"))
    ).evidence
    assert evidence.verdict == "refused"
    assert evidence.reason == "the output is not finite"


def test_pixels_that_differ_are_refused(references: dict[TaskName, tuple[Predictor, Reference]]) -> None:
    predictor, reference = references["multiclass_segmentation"]
    shifted = Predictor(Bent(predictor.preprocess, lambda pixels: pixels + 0.01), predictor.network, predictor.decide)
    evidence = compare("preprocess", reference, shifted).evidence
    assert evidence.verdict == "refused"
    assert "pixels differ by up to 0.01" in evidence.reason


def test_another_shape_is_refused_before_any_value_is_compared(
    references: dict[TaskName, tuple[Predictor, Reference]],
) -> None:
    predictor, reference = references["classification"]
    wide = Bent(predictor.preprocess, lambda pixels: np.repeat(pixels, 2, axis=1))
    with pytest.raises(RefusedError, match=r"preprocess: expected shape \[1, 1, 384, 384\], got \[1, 2, 384, 384\]"):
        compare("preprocess", reference, Predictor(wide, predictor.network, predictor.decide))
