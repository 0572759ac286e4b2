"""Parity: does a deployed form see and decide what the torch reference does, slice by slice?"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..model.card import Card
from ..model.errors import RefusedError
from ..model.metrics import agreement, dice
from .bundle import Evidence, Graph
from .predictor import Predictor
from .slices import GateSlices

#: Largest difference of a pixel after preprocessing, on values of about +-2; float32 resizing differs by rounding.
PIXEL_TOLERANCE = 1e-3
#: Largest difference of a classifier's probability: labels alone would not see a network that always answers the same.
PROBABILITY_TOLERANCE = 0.02
#: Smallest Dice with the reference's own mask of a label, pooled over the slices; a rare label could vanish within the
#: tolerance on all pixels. Labels with fewer pixels in the reference are not judged: a few flips would decide.
LEAST_DICE = 0.97
LEAST_PIXELS = 2000


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
    """Evidence for one graph of ``candidate``: names and shapes first, then values, then what is decided.

    ``preprocess`` and ``decide`` get the reference's own tensors, so that only they can differ; ``network`` is the
    whole chain from image to decision. ``metric`` has the share of equal labels of the worst slice and, for each label
    of a mask that the reference gives, its Dice with the reference.
    """
    differences: list[NDArray[np.float64]] = []
    decisions: list[NDArray[Any]] = []
    for answer in reference.answers:
        given, wanted, decision = _run_slice(graph, answer, candidate)
        if given.shape != wanted.shape:
            raise RefusedError(
                f"{graph}: expected shape {list(wanted.shape)}, got {list(given.shape)}", page="gate-refused"
            )
        differences.append(_difference(given, wanted))
        decisions.append(decision)
    worst = float(max(np.max(difference) for difference in differences))
    mean = float(np.mean([np.mean(difference) for difference in differences]))
    equal = [
        _equal(decision, answer.decision, reference.card)
        for decision, answer in zip(decisions, reference.answers, strict=True)
    ]
    shares = _dice_by_label(decisions, reference) if reference.card.spec.is_segmentation else {}
    reason = _refusal(graph, worst, float(np.mean(equal)), reference.card) or _refused_labels(shares)
    if not reason and not reference.card.spec.is_segmentation:
        reason = _refused_probability(decisions, reference)
    return Evidence(
        reference=reference.name,
        images=reference.slices.name,
        images_sha256=reference.slices.sha256,
        slices=len(reference.answers),
        max_difference=worst if np.isfinite(worst) else None,
        mean_difference=mean if np.isfinite(mean) else None,
        label_agreement=float(np.mean(equal)),
        metric={"worst_slice_agreement": min(equal), **shares},
        verdict="refused" if reason else "passed",
        reason=reason,
    )


def _run_slice(graph: Graph, answer: Answer, candidate: Predictor) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """What the graph gave, what the reference gave in its place, and the decision that follows."""
    match graph:
        case "preprocess":
            return candidate.preprocess.infer({"image": answer.image})["pixels"], answer.pixels, answer.decision
        case "network":
            logits = candidate.logits(answer.image)
            return logits, answer.logits, candidate.decision(logits, answer.image)
        case "decide":
            decision = candidate.decision(answer.logits, answer.image)
            return decision, answer.decision, decision


def _dice_by_label(decisions: list[NDArray[Any]], reference: Reference) -> dict[str, float]:
    """Dice of each label with the reference's, pooled; only labels that the reference gives often enough."""
    given = np.concatenate([decision.ravel() for decision in decisions])
    wanted = np.concatenate([answer.decision.ravel() for answer in reference.answers])
    names = reference.card.labels
    return {
        f"dice_{names[label].replace(' ', '_')}": dice(given == label, wanted == label)
        for label in range(1, len(names))
        if np.count_nonzero(wanted == label) >= LEAST_PIXELS
    }


def _refused_labels(shares: dict[str, float]) -> str:
    for name, share in shares.items():
        if share < LEAST_DICE:
            return f"{name} with the reference is {share:.4f}, allowed {LEAST_DICE:g}"
    return ""


def _refused_probability(decisions: list[NDArray[Any]], reference: Reference) -> str:
    worst = max(
        float(np.max(_difference(decision, answer.decision)))
        for decision, answer in zip(decisions, reference.answers, strict=True)
    )
    if not worst <= PROBABILITY_TOLERANCE:
        return f"a probability differs by {worst:.2g}, allowed {PROBABILITY_TOLERANCE:g}"
    return ""


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
