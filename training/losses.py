"""Cross-entropy plus Dice, for labels that say only part of the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .samples import SUPERVISIONS, Supervision

#: Which of the four classes (background, ground glass, consolidation, effusion) each label value may mean.
ALLOWED: dict[Supervision, list[list[int]]] = {
    "types": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
    "lesion": [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
    "effusion": [[1, 1, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]],
}


def soft_dice(probability: Tensor, truth: Tensor) -> Tensor:
    """Soft Dice coefficient over the whole batch; both ``[N, h, w]``, truth 0 / 1."""
    overlap = (probability * truth).sum()
    return (2 * overlap + 1) / (probability.sum() + truth.sum() + 1)


def binary_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """``logits`` ``[N, 1, h, w]``, ``labels`` ``[N, h, w]`` of 0 and 1."""
    truth = labels.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits[:, 0], truth)
    return cross_entropy + 1 - soft_dice(logits[:, 0].sigmoid(), truth)


def partial_label_loss(logits: Tensor, labels: Tensor, supervision: Tensor) -> Tensor:
    """Four-class loss where a label may stand for several classes: their probabilities are added up first.

    Args:
        logits: float ``[N, 4, h, w]``.
        labels: integer ``[N, h, w]``, read as each slice's supervision says.
        supervision: index into ``SUPERVISIONS`` ``[N]``.
    """
    probability = logits.softmax(dim=1)
    losses: list[Tensor] = []
    for index, name in enumerate(SUPERVISIONS):
        chosen = supervision == index
        if not bool(chosen.any()):
            continue
        meanings = torch.tensor(ALLOWED[name], dtype=probability.dtype, device=probability.device)
        own, truth = probability[chosen], labels[chosen].long()
        allowed = meanings[truth].movedim(-1, 1)
        cross_entropy = -(own * allowed).sum(1).clamp_min(1e-6).log().mean()
        merged = torch.einsum("nchw,lc->nlhw", own, meanings)
        present = [value for value in range(1, len(meanings)) if meanings[value].any()]
        dice = torch.stack([soft_dice(merged[:, value], (truth == value).float()) for value in present]).mean()
        losses.append((cross_entropy + 1 - dice) * chosen.float().mean())
    return torch.stack(losses).sum()
