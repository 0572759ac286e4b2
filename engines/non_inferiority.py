"""Non-inferiority: is what a reduced precision decides as good as what the reference decides, judged by the truth?

A paired comparison on the same slices: the change in Dice (for a classifier, in AUC), its bootstrap interval over
patients (over slices where there are fewer than ten patients), and the share of labels that flip. Not worse means that
the whole interval lies above minus the margin.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.intervals import auc_of, estimate, mean_of, resample
from ..model.metrics import auc, dice
from .bundle import Gate, Manifest, Verdict
from .parity import Reference, labels_of
from .slices import GateSlices
from .truth import Truth, truth_of

#: How much Dice or AUC may be lost.
MARGIN = 0.005
#: The share of labels (of pixels, or of slices for a classifier) that may flip at the operating point.
MOST_FLIPS = 0.02
#: Fewer slices with truth than this prove nothing.
LEAST_SLICES = 8


def judge(reference: Reference, decisions: Sequence[NDArray[Any]], margin: float = MARGIN) -> Gate:
    """The gate's verdict on decisions for the slices of ``reference``, in their order.

    ``not_run`` where the slices are synthetic or too few of them have the truth that the task needs.
    """
    samples = reference.slices.samples
    told = [(index, truth) for index, sample in enumerate(samples) if (truth := truth_of(sample, reference.card.task))]
    is_mask = reference.card.spec.is_segmentation
    if obstacle := _obstacle(reference.slices, sum(truth.is_shown or not is_mask for _, truth in told)):
        return _gate("not_run", obstacle)
    ours = [decisions[index][0] for index, _ in told]
    theirs = [reference.answers[index].decision[0] for index, _ in told]
    truths = [truth for _, truth in told]
    groups = resample([samples[index].group for index, _ in told])
    if reference.card.spec.is_segmentation:
        name, base = "dice", _dice(theirs, truths)
        change = estimate(mean_of(_dice(ours, truths) - base), groups)
        score = float(np.nanmean(base)) if np.isfinite(base).any() else float("nan")
    else:
        infected = np.array([bool(truth.labels) for truth in truths])
        before, after = (np.array([decision[0] for decision in of]) for of in (theirs, ours))
        one, other = auc_of(after, infected), auc_of(before, infected)
        name, score = "auc", auc(before, infected)
        change = estimate(lambda weights: one(weights) - other(weights), groups)
    if change is None or change.low is None or change.high is None:
        return _gate("not_run", f"the slices that tell the truth give no {name}")
    flips = 1 - float(
        np.mean(
            [
                np.mean(labels_of(decision, reference.card) == labels_of(answer.decision, reference.card))
                for decision, answer in zip(decisions, reference.answers, strict=True)
            ]
        )
    )
    figures = {
        name: score,
        f"{name}_change": change.value,
        f"{name}_change_low": change.low,
        f"{name}_change_high": change.high,
        "flips": flips,
        "margin": margin,
        "slices": float(len(told)),
        "patients": float(len({samples[index].group for index, _ in told})),
    }
    reason = ""
    if change.low < -margin:
        interval = f"95 % interval {change.low:+.4f} to {change.high:+.4f}"
        reason = f"{name} changes by {change.value:+.4f} ({interval}), allowed -{margin:g}"
    elif flips > MOST_FLIPS:
        reason = f"{flips:.2%} of the labels flip, allowed {MOST_FLIPS:.0%}"
    return _gate("refused" if reason else "passed", reason, figures)


def _obstacle(slices: GateSlices, told: int) -> str:
    """Why nothing can be judged on these slices, ``told`` of which tell what is to be found; empty where it can."""
    if not slices.real:
        return "real slices with drawn truth are needed: pass --data DIR or set CORONANET_DATA"
    if not slices.has_truth:
        return f"{slices.name} tell no truth: put masks beside them"
    return "" if told >= LEAST_SLICES else f"only {told} slices tell the truth, {LEAST_SLICES} are needed"


def margin_of(manifest: Manifest) -> float:
    """The margin that a bundle was exported with."""
    gates = [gate for record in manifest.files for gate in record.gates]
    return next((gate.figures["margin"] for gate in gates if "margin" in gate.figures), MARGIN)


def _gate(verdict: Verdict, reason: str, figures: dict[str, float] | None = None) -> Gate:
    return Gate(gate="non_inferiority", verdict=verdict, reason=reason, figures=figures or {})


def _dice(decisions: Sequence[NDArray[Any]], truths: Sequence[Truth]) -> NDArray[np.float64]:
    """Dice of each slice, the mean over the judged labels that its truth shows; NaN where it shows none."""
    return np.array([_slice_dice(decision, truth) for decision, truth in zip(decisions, truths, strict=True)])


def _slice_dice(decision: NDArray[Any], truth: Truth) -> float:
    there = [label for label in truth.judged if (truth.labels == label).any()]
    return (
        float(np.mean([dice(decision == label, truth.labels == label) for label in there])) if there else float("nan")
    )
