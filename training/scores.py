"""Scores of a network in training, on whole slices of groups held back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..model.card import Card
from ..model.metrics import auc, dice
from ..model.pixels import Preprocess, build_decide
from ..model.tasks import TaskName
from .samples import LESION_KNOWN, Sample


def score(network: nn.Module, card: Card, samples: Sequence[Sample]) -> dict[str, float]:
    """Scores through the card's own ``Preprocess`` and ``Decide``, on the slices whose labels tell the task's truth.

    Segmentation: Dice per class, pooled. Classification: AUC, and sensitivity and specificity at the operating point.
    """
    told = [sample for sample in samples if _tells(sample, card.task)]
    preprocess, decide = Preprocess(card), build_decide(card)
    was_training = network.training
    network.eval()
    device = next(network.parameters()).device
    decisions: list[NDArray[Any]] = []
    with torch.inference_mode():
        for sample in told:
            image = torch.from_numpy(sample.image[None])
            with torch.autocast(device.type, torch.bfloat16):
                logits = network(preprocess(image).to(device, memory_format=torch.channels_last))
            logits = logits.float().cpu()
            decisions.append((decide(logits, image) if card.spec.is_segmentation else decide(logits)).numpy()[0])
    network.train(was_training)
    if card.task == "classification":
        return _classification_scores(np.array(decisions)[:, 0], told, card.threshold or 0.5)
    return _dice_scores(list(zip(decisions, told, strict=True)), card.task)


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
    def pooled(pairs: list[tuple[NDArray[Any], NDArray[Any]]]) -> float:
        return dice(np.concatenate([a.ravel() for a, _ in pairs]), np.concatenate([b.ravel() for _, b in pairs]))

    if task == "lung_segmentation":
        return {"dice": pooled([(mask == 1, sample.lung == 1) for mask, sample in scored if sample.lung is not None])}
    if task == "binary_segmentation":
        return {"dice": pooled([(mask == 1, sample.labels > 0) for mask, sample in scored])}
    types = [(mask, sample) for mask, sample in scored if sample.supervision == "types"]
    effusion = [(mask, sample) for mask, sample in scored if sample.supervision == "effusion"]
    scores = {
        "dice_ground_glass": pooled([(mask == 1, sample.labels == 1) for mask, sample in types]),
        "dice_consolidation": pooled([(mask == 2, sample.labels == 2) for mask, sample in types]),
    }
    if effusion:
        scores["dice_pleural_effusion"] = pooled([(mask == 3, sample.labels == 1) for mask, sample in effusion])
    return scores
