"""Parity: does a deployed form see and decide what the torch reference does, slice by slice?"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..model.card import Card
from ..model.errors import RefusedError
from ..model.metrics import agreement, dice
from .bundle import Evidence, Graph, Precision
from .predictor import Predictor
from .slices import GateSlices

#: Largest difference of a pixel after preprocessing, on values of about +-2, and of a probability after the decision
#: alone; float32 arithmetic differs by rounding.
PIXEL_TOLERANCE = 1e-3
#: Labels with fewer pixels in the reference are not judged by their Dice: a few flips would decide.
LEAST_PIXELS = 2000


@dataclass(frozen=True)
class Tolerance:
    """How far a precision may be from the reference before parity refuses it; what that does to the decisions'
    quality is for the gate of non-inferiority to say.

    Attributes:
        labels: share of labels that may differ, as a multiple of the card's tolerance.
        dice: smallest Dice with the reference's own mask of a label, pooled over the slices; a rare label could vanish
            within the tolerance on all pixels.
        probability: largest difference of a classifier's probability; labels alone would not see a network that always
            answers the same.
    """

    labels: float
    dice: float
    probability: float


TOLERANCES: dict[Precision, Tolerance] = {
    "fp32": Tolerance(1, 0.97, 0.02),
    "fp16": Tolerance(1, 0.97, 0.02),
    "bf16": Tolerance(1, 0.97, 0.05),
    "int8": Tolerance(10, 0.95, 0.10),
}


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


#: Of one slice: what came, what the reference has in its place, and the decision that follows.
Found = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Comparison:
    """The evidence for one graph, and what was decided on every slice of the reference."""

    evidence: Evidence
    decisions: tuple[NDArray[Any], ...]


def compare(graph: Graph, reference: Reference, candidate: Predictor, precision: Precision = "fp32") -> Comparison:
    """Hold one graph of ``candidate`` against the reference: names and shapes first, then values, then decisions.

    ``preprocess`` and ``decide`` get the reference's own tensors, so that only they can differ; ``network`` is the
    whole chain from image to decision. ``metric`` has the share of equal labels of the worst slice and, for each label
    of a mask that the reference gives, its Dice with the reference.
    """
    return hold(graph, reference, (_run_slice(graph, answer, candidate) for answer in reference.answers), precision)


def hold(graph: Graph | None, reference: Reference, found: Iterable[Found], precision: Precision) -> Comparison:
    """Judge what was found for every slice of the reference, in its order; a graph of None is the whole ensemble."""
    largest: list[float] = []
    means: list[float] = []
    decisions: list[NDArray[Any]] = []
    for given, wanted, decision in found:
        if given.shape != wanted.shape:
            name = graph or "ensemble"
            raise RefusedError(
                f"{name}: expected shape {list(wanted.shape)}, got {list(given.shape)}", page="gate-refused"
            )
        difference = _difference(given, wanted)
        largest.append(float(np.max(difference)))
        means.append(float(np.mean(difference)))
        decisions.append(decision)
    # NumPy's maximum, since Python's would pass over what is not a number.
    worst, mean = float(np.max(largest)), float(np.mean(means))
    equal = [
        _equal(decision, answer.decision, reference.card)
        for decision, answer in zip(decisions, reference.answers, strict=True)
    ]
    is_mask = reference.card.spec.is_segmentation
    shares = _dice_by_label(decisions, reference) if is_mask else {}
    tolerance = TOLERANCES[precision]
    # A sigmoid of the reference's own logits differs by rounding.
    allowed = PIXEL_TOLERANCE if graph == "decide" else tolerance.probability
    reason = (
        _refusal(graph, worst, float(np.mean(equal)), tolerance.labels * reference.card.tolerance)
        or _refused_labels(shares, tolerance.dice)
        or ("" if is_mask else _refused_probability(decisions, reference, allowed))
    )
    evidence = Evidence(
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
    return Comparison(evidence, tuple(decisions))


def _run_slice(graph: Graph, answer: Answer, candidate: Predictor) -> Found:
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


def _refused_labels(shares: dict[str, float], least: float) -> str:
    for name, share in shares.items():
        if share < least:
            return f"{name} with the reference is {share:.4f}, allowed {least:g}"
    return ""


def _refused_probability(decisions: list[NDArray[Any]], reference: Reference, allowed: float) -> str:
    worst = max(
        float(np.max(_difference(decision, answer.decision)))
        for decision, answer in zip(decisions, reference.answers, strict=True)
    )
    return "" if worst <= allowed else f"a probability differs by {worst:.2g}, allowed {allowed:g}"


def _refusal(graph: Graph | None, worst: float, share: float, allowed: float) -> str:
    if not np.isfinite(worst):
        return "the output is not finite"
    if graph == "preprocess" and worst > PIXEL_TOLERANCE:
        return f"pixels differ by up to {worst:.2g}, allowed {PIXEL_TOLERANCE:g}"
    if share < 1 - allowed:
        return f"{1 - share:.2e} of the labels differ, allowed {allowed:g}"
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
