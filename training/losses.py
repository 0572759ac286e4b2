"""Cross-entropy plus Dice, for labels that say only part of the truth."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engines.samples import SUPERVISIONS, Supervision

#: Which of the four classes (background, ground glass, consolidation, effusion) each label value may mean.
ALLOWED: dict[Supervision, list[list[int]]] = {
    "types": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
    "lesion": [[1, 0, 0, 0], [0, 1, 1, 0]],
    "effusion": [[1, 1, 1, 0], [0, 0, 0, 1]],
}


def dice_loss(probability: Tensor, truth: Tensor) -> Tensor:
    """1 - soft Dice: half of the whole batch's, half of the mean over the images that show the label.

    The batch's learns from images without the label too; the images' lets a small lesion count as much as a large one,
    as the mean Dice of images does that networks are compared by.

    Args:
        probability: float ``[N, h, w]`` in 0..1.
        truth: float ``[N, h, w]``, 0 or 1.
    """
    overlap, size = (probability * truth).sum((1, 2)), (probability + truth).sum((1, 2))
    pooled = (2 * overlap.sum() + 1) / (size.sum() + 1)
    shown = truth.flatten(1).any(1)
    each = ((2 * overlap + 1) / (size + 1))[shown].mean() if bool(shown.any()) else pooled
    return 1 - (pooled + each) / 2


def binary_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """``logits`` ``[N, 1, h, w]``, ``labels`` ``[N, h, w]`` of 0 and 1."""
    truth = labels.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits[:, 0], truth)
    return cross_entropy + dice_loss(logits[:, 0].sigmoid(), truth)


def partial_label_loss(logits: Tensor, labels: Tensor, supervision: Tensor) -> Tensor:
    """Four-class loss where a label may stand for several classes: their probabilities are added up first.

    Args:
        logits: float ``[N, 4, h, w]``.
        labels: integer ``[N, h, w]``, read as each slice's supervision says.
        supervision: index into ``SUPERVISIONS`` ``[N]``.
    """
    log_probability = logits.log_softmax(dim=1)
    losses: list[Tensor] = []
    for index, name in enumerate(SUPERVISIONS):
        chosen = supervision == index
        if not bool(chosen.any()):
            continue
        meanings = torch.tensor(ALLOWED[name], device=logits.device).bool()
        own, truth = log_probability[chosen], labels[chosen].long()
        allowed = meanings[truth].movedim(-1, 1)
        cross_entropy = -own.masked_fill(~allowed, -torch.inf).logsumexp(dim=1).mean()
        probability = own.exp()
        dice = [
            dice_loss(probability[:, classes].sum(1), (truth == value).float())
            for value, classes in enumerate(meanings)
            if value > 0
        ]
        losses.append((cross_entropy + torch.stack(dice).mean()) * chosen.float().mean())
    return torch.stack(losses).sum()
