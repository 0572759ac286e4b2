"""Scores of a network in training, on whole slices of groups held back."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..engines.samples import LESION_KNOWN, Sample
from ..model.card import Card
from ..model.metrics import auc, dice
from ..model.pixels import Preprocess, build_decide
from ..model.tasks import TaskName


def score(network: nn.Module, card: Card, samples: Sequence[Sample]) -> dict[str, float]:
    """Scores through the card's own ``Preprocess`` and ``Decide``, on the slices whose labels tell the task's truth.

    Segmentation, a label: ``dice``, the mean over the slices that show it, and ``dice_pooled``, one Dice over the
    pixels of all slices. Classification: AUC, and sensitivity and specificity at the operating point.
    """
    told = [sample for sample in samples if _tells(sample, card.task)]
    decided = list(decisions(network, card, told))
    if card.task == "classification":
        return _classification_scores(np.array(decided)[:, 0], told, card.threshold or 0.5)
    return _dice_scores(list(zip(decided, told, strict=True)), card.task)


def decisions(network: nn.Module, card: Card, samples: Iterable[Sample]) -> Iterator[NDArray[Any]]:
    """What a network in training decides of whole slices: masks uint8 ``[H, W]``, or probabilities float32 ``[1]``."""
    preprocess, decide = Preprocess(card), build_decide(card)
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    for sample in samples:
        image = torch.from_numpy(sample.image[None])
        with torch.inference_mode():
            with torch.autocast(device.type, torch.bfloat16):
                logits = network(preprocess(image).to(device, memory_format=torch.channels_last))
            logits = logits.float().cpu()
            decision = decide(logits, image) if card.spec.is_segmentation else decide(logits)
        yield decision.numpy()[0]
    network.train(was_training)


def _tells(sample: Sample, task: TaskName) -> bool:
    if task == "lung_segmentation":
        return sample.lung is not None
    if task == "multiclass_segmentation":
        return sample.supervision != "lesion"
    return sample.supervision in LESION_KNOWN


def _classification_scores(
    probability: NDArray[np.float32], samples: Sequence[Sample], threshold: float
) -> dict[str, float]:
    infected = np.array([bool(sample.labels.any()) for sample in samples])
    called = probability >= threshold
    return {
        "auc": auc(probability, infected),
        "sensitivity": float(called[infected].mean()),
        "specificity": float((~called[~infected]).mean()),
    }


def _dice_scores(scored: list[tuple[NDArray[Any], Sample]], task: TaskName) -> dict[str, float]:
    if task == "lung_segmentation":
        return _dice("", [(mask == 1, sample.lung == 1) for mask, sample in scored if sample.lung is not None])
    if task == "binary_segmentation":
        return _dice("", [(mask == 1, sample.labels > 0) for mask, sample in scored])
    types = [(mask, sample.labels) for mask, sample in scored if sample.supervision == "types"]
    effusion = [(mask == 3, sample.labels == 1) for mask, sample in scored if sample.supervision == "effusion"]
    return (
        _dice("_ground_glass", [(mask == 1, labels == 1) for mask, labels in types])
        | _dice("_consolidation", [(mask == 2, labels == 2) for mask, labels in types])
        | (_dice("_pleural_effusion", effusion) if effusion else {})
    )


def _dice(label: str, pairs: list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]) -> dict[str, float]:
    """Of masks and truths: NaN is nothing's mean, so where no slice shows the label, there is the pooled Dice alone."""
    shown = [dice(mask, truth) for mask, truth in pairs if truth.any()]
    masks, truths = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    mean = {f"dice{label}": float(np.mean(shown))} if shown else {}
    return mean | {f"dice_pooled{label}": dice(masks, truths)}
