"""`bench triage`: where the gate of ``coronanet_triage`` stands, what it saves and what it loses.

The gate is chosen on training and validation slices and measured on held-back groups, each with a gate that was chosen
without it. No ``test/`` split is opened.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine
from ..engines.bundle import Bundle
from ..engines.datasets import SOURCES
from ..engines.predictor import Choice, Predictor
from ..engines.samples import LESION_KNOWN, Sample, Split
from ..engines.truth import EFFUSION
from ..model.card import StrictModel
from ..model.errors import UsageError
from ..model.tasks import TASKS, TaskName
from .report import NOTICE

Kind = Literal["lesion", "effusion"]
#: What the gate is chosen with, so that it does not depend on the machine.
CLASSIFIER = Choice("onnxruntime", "fp32")
#: A gate is rounded down to so many digits, which never lets fewer slices through.
DIGITS = 4


@dataclass(frozen=True)
class Seen:
    """What the networks say of one slice, in pixels beside what was drawn.

    ``drawn``, ``found`` and ``hit`` (both) count lesion of a ``lesion`` slice and effusion of an ``effusion`` slice.
    """

    group: str
    kind: Kind
    probability: float
    drawn: int
    found: int = 0
    hit: int = 0


class Gate(StrictModel):
    """A threshold and where it comes from.

    ``sensitivity`` is the share of the ``infected`` of ``slices`` slices that reach ``threshold``, which is the highest
    at which that is ``target_sensitivity`` or more. ``weights_sha256`` are the classification's.
    """

    threshold: float
    target_sensitivity: float
    sensitivity: float
    slices: int
    infected: int
    sources: tuple[str, ...]
    data_sha256: str
    weights_sha256: str


class GroupResult(StrictModel):
    """A held-back volume or patient behind a gate that was chosen without it.

    ``segmented`` of ``slices`` reach it; ``missed`` of ``drawn_slices``, which have something drawn, do not. Of the
    drawn pixels ``drawn_lost``, and of those that the network finds ``found_lost`` (shares, 0..1), are in slices that
    do not. Dice is pooled over the group, without and with the gate; None where nothing is drawn.
    """

    group: str
    kind: Kind
    threshold: float
    slices: int
    segmented: int
    drawn_slices: int
    missed: int
    drawn_lost: float | None
    found_lost: float | None
    dice: float | None
    dice_gated: float | None


class ServedResult(StrictModel):
    """A group or study asked of both served models in turn: seconds in all, for every output, and the share saved.

    ``segmented`` of ``slices`` reach the gate that was chosen.
    """

    group: str
    slices: int
    segmented: int
    ensemble_s: float
    triage_s: float
    saved: float


class TriageReport(StrictModel):
    """What was chosen and what came of it."""

    schema_version: Literal[1] = 1
    gate: Gate
    groups: tuple[GroupResult, ...]
    served: tuple[ServedResult, ...] = ()
    notice: str = NOTICE

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def measure_triage(
    bundles: Mapping[TaskName, Bundle],
    choices: Mapping[TaskName, Choice],
    split: Split,
    target_sensitivity: float,
    *,
    advance: Callable[[str], object] = lambda _: None,
) -> TriageReport:
    """Choose the gate and measure it.

    Args:
        bundles: of the classification and both lesion segmentations.
        choices: how to run the segmentations.
        split: training and validation slices of the classification and of the 3-class segmentation.
        target_sensitivity: the least share of infected slices that must pass, 0..1.
        advance: told what is being looked at.
    """
    known = [sample for sample in split.train if sample.supervision in LESION_KNOWN]
    with Predictor.open(bundles["classification"], CLASSIFIER) as classifier:
        advance("training slices")
        train = [Seen(*_said(classifier, sample), int(sample.labels.astype(bool).sum())) for sample in known]
        with (
            Predictor.open(bundles["binary_segmentation"], choices["binary_segmentation"]) as binary,
            Predictor.open(bundles["multiclass_segmentation"], choices["multiclass_segmentation"]) as types,
        ):
            advance("held-back slices")
            held = [_look(sample, classifier, binary, types) for sample in split.validation]
    gate = choose_threshold([*train, *held], target_sensitivity)
    lesions = [each for each in (*train, *held) if each.kind == "lesion"]
    infected = [each.probability for each in lesions if each.drawn]
    weights = next(record.sha256 for record in bundles["classification"].manifest.files if record.kind == "weights")
    groups = sorted({(each.kind, each.group) for each in held}, key=lambda pair: (pair[0] != "lesion", pair[1]))
    return TriageReport(
        gate=Gate(
            threshold=gate,
            target_sensitivity=target_sensitivity,
            sensitivity=float(np.mean(np.array(infected) >= gate)),
            slices=len(lesions),
            infected=len(infected),
            sources=tuple(name for name, _ in SOURCES["classification"] if name in split.sources),
            data_sha256=split.sha256,
            weights_sha256=weights,
        ),
        groups=tuple(
            _result(
                [each for each in held if each.group == group],
                choose_threshold([*train, *(each for each in held if each.group != group)], target_sensitivity),
            )
            for _, group in groups
        ),
    )


def choose_threshold(seen: Iterable[Seen], target_sensitivity: float) -> float:
    """The highest probability that at least this share of the slices with a drawn lesion reach, rounded down.

    Raises:
        UsageError: no slice has one.
    """
    infected = sorted(each.probability for each in seen if each.kind == "lesion" and each.drawn)
    if not infected:
        raise UsageError("no slice with a drawn lesion to choose a gate on")
    may_miss = math.floor((1 - target_sensitivity) * len(infected) + 1e-9)
    scale = 10**DIGITS
    return math.floor(infected[may_miss] * scale) / scale


def measure_served(
    slices: Sequence[tuple[str, NDArray[np.int16]]],
    ensemble: Engine,
    triage: Engine,
    threshold: float,
    *,
    advance: Callable[[str], object] = lambda _: None,
) -> tuple[ServedResult, ...]:
    """How long both served models take for the slices of each group, one slice a request, in turns.

    Args:
        slices: each with the name of its group, int16 HU ``[H, W]``.
        ensemble: the served ``coronanet``.
        triage: the served ``coronanet_triage``.
        threshold: its gate.
        advance: told what is being looked at.
    """
    groups: dict[str, list[tuple[float, float, float]]] = {}
    for engine in (ensemble, triage):
        _ask(engine, slices[0][1])
    for index, (group, image) in enumerate(slices):
        advance(f"served slices of {group}")
        took: dict[int, float] = {}
        probability = 0.0
        for engine in (ensemble, triage) if index % 2 else (triage, ensemble):
            took[id(engine)], probability = _ask(engine, image)
        groups.setdefault(group, []).append((took[id(ensemble)], took[id(triage)], probability))
    results: list[ServedResult] = []
    for group, each in groups.items():
        whole, gated, probabilities = np.array(each).T
        results.append(
            ServedResult(
                group=group,
                slices=len(each),
                segmented=int((probabilities >= threshold).sum()),
                ensemble_s=float(whole.sum()),
                triage_s=float(gated.sum()),
                saved=float(1 - gated.sum() / whole.sum()),
            )
        )
    return tuple(results)


def _ask(engine: Engine, image: NDArray[np.int16]) -> tuple[float, float]:
    """Seconds that a slice takes, and the probability that it is infected."""
    start = time.perf_counter()
    answer = engine.infer({"image": image[None]})
    return time.perf_counter() - start, float(answer[TASKS["classification"].output][0, 0])


def _said(classifier: Predictor, sample: Sample) -> tuple[str, Kind, float]:
    kind: Kind = "lesion" if sample.supervision in LESION_KNOWN else "effusion"
    return sample.group, kind, float(classifier.predict(sample.image[None])[0, 0])


def _look(sample: Sample, classifier: Predictor, binary: Predictor, types: Predictor) -> Seen:
    said = _said(classifier, sample)
    if said[1] == "lesion":
        found = binary.predict(sample.image[None])[0] > 0
    else:
        found = types.predict(sample.image[None])[0] == EFFUSION
    drawn = sample.labels > 0
    return Seen(*said, int(drawn.sum()), int(found.sum()), int((drawn & found).sum()))


def _result(seen: Sequence[Seen], threshold: float) -> GroupResult:
    through = [each for each in seen if each.probability >= threshold]
    drawn, found = sum(each.drawn for each in seen), sum(each.found for each in seen)
    drawn_through, found_through = sum(each.drawn for each in through), sum(each.found for each in through)
    hit, hit_through = sum(each.hit for each in seen), sum(each.hit for each in through)
    return GroupResult(
        group=seen[0].group,
        kind=seen[0].kind,
        threshold=threshold,
        slices=len(seen),
        segmented=len(through),
        drawn_slices=sum(each.drawn > 0 for each in seen),
        missed=sum(each.drawn > 0 for each in seen) - sum(each.drawn > 0 for each in through),
        drawn_lost=1 - drawn_through / drawn if drawn else None,
        found_lost=1 - found_through / found if found else None,
        dice=2 * hit / (drawn + found) if drawn else None,
        dice_gated=2 * hit_through / (drawn + found_through) if drawn else None,
    )
