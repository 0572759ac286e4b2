"""Parity: does a deployed form see and decide what the torch reference does, slice by slice?"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..model.card import Card
from ..model.metrics import agreement
from .bundle import Evidence, Graph
from .predictor import Predictor
from .slices import GateSlices

#: Largest difference of a pixel after preprocessing, on values of about +-2; float32 resizing differs by rounding.
PIXEL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Answer:
    """What the reference made of one slice, at every step; each tensor has a batch of one."""

    image: NDArray[np.int16]
    pixels: NDArray[np.float32]
    logits: NDArray[np.float32]
    decision: NDArray[Any]


@dataclass(frozen=True)
class Reference:
    """The reference's answers to the slices of a gate, computed once and compared with many times."""

    name: str
    card: Card
    slices: GateSlices
    answers: tuple[Answer, ...]

    @classmethod
    def of(cls, predictor: Predictor, card: Card, slices: GateSlices, *, name: str) -> Self:
        answers: list[Answer] = []
        for slice_ in slices.images:
            image = slice_[None]
            pixels = predictor.preprocess.infer({"image": image})["pixels"]
            logits = predictor.network.infer({"pixels": pixels})["logits"]
            answers.append(Answer(image, pixels, logits, predictor.decision(logits, image)))
        return cls(name, card, slices, tuple(answers))


def compare(graph: Graph, reference: Reference, candidate: Predictor) -> Evidence:
    """Evidence for one graph of ``candidate``.

    ``preprocess`` and ``decide`` get the reference's own tensors, so that only they can differ; ``network`` is the
    whole chain from image to decision. ``metric`` has the share of equal labels of the worst slice.
    """
    differences: list[NDArray[np.float64]] = []
    agreements: list[float] = []
    for answer in reference.answers:
        difference, equal = _compare_slice(graph, answer, candidate, reference.card)
        differences.append(difference)
        agreements.append(equal)
    worst = float(max(np.max(difference) for difference in differences))
    mean = float(np.mean([np.mean(difference) for difference in differences]))
    share = float(np.mean(agreements))
    reason = _refusal(graph, worst, share, reference.card)
    return Evidence(
        reference=reference.name,
        images=reference.slices.name,
        images_sha256=reference.slices.sha256,
        slices=len(reference.answers),
        max_difference=worst if np.isfinite(worst) else None,
        mean_difference=mean if np.isfinite(mean) else None,
        label_agreement=share,
        metric={"worst_slice_agreement": min(agreements)},
        verdict="refused" if reason else "passed",
        reason=reason,
    )


def _compare_slice(graph: Graph, answer: Answer, candidate: Predictor, card: Card) -> tuple[NDArray[np.float64], float]:
    """Absolute differences of the graph's output, and the share of equal labels."""
    match graph:
        case "preprocess":
            return _difference(candidate.preprocess.infer({"image": answer.image})["pixels"], answer.pixels), 1.0
        case "network":
            logits = candidate.logits(answer.image)
            decision = candidate.decision(logits, answer.image)
            return _difference(logits, answer.logits), _equal(decision, answer.decision, card)
        case "decide":
            decision = candidate.decision(answer.logits, answer.image)
            return _difference(decision, answer.decision), _equal(decision, answer.decision, card)


def _refusal(graph: Graph, worst: float, share: float, card: Card) -> str:
    if not np.isfinite(worst):
        return "the output is not finite"
    if graph == "preprocess" and worst > PIXEL_TOLERANCE:
        return f"pixels differ by up to {worst:.2g}, allowed {PIXEL_TOLERANCE:g}"
    if share < 1 - card.tolerance:
        return f"{1 - share:.2e} of the labels differ, allowed {card.tolerance:g}"
    return ""


def labels_of(decision: NDArray[Any], card: Card) -> NDArray[np.uint8]:
    """What is decided: a mask's labels as they are, a probability ``[N, 1]`` against the card's operating point."""
    if card.spec.is_segmentation:
        return decision
    assert card.threshold is not None
    return (decision >= card.threshold).astype(np.uint8)


def _equal(one: NDArray[Any], other: NDArray[Any], card: Card) -> float:
    return agreement(labels_of(one, card), labels_of(other, card))


def _difference(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    # Infinities are judged by the caller; their difference is not a number, and no surprise.
    with np.errstate(invalid="ignore"):
        return np.abs(one.astype(np.float64) - other.astype(np.float64))
