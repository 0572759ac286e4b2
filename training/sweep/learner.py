"""The talk's way of training, and the two numbers of its tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...engines.samples import LESION_KNOWN, Sample
from ...model.card import Card
from ...model.metrics import dice, rand_error
from ...model.tasks import LESION_TYPES, TaskName
from ..learner import Learner
from ..recipes import Recipe
from ..scores import decisions

#: The talk divides the rate by ten after every so many passes through the data.
EPOCHS_PER_DECADE = 100
#: Points of a curve, and one at the last step.
CURVE_POINTS = 6


class TalkLearner(Learner):
    """Adam with L2 weight decay and the talk's schedule, scored in the talk's terms.

    Args:
        epoch_steps: steps that show as many views as there are training slices; a hundred such passes, and the
            learning rate is divided by ten.
    """

    def __init__(
        self,
        cards: Mapping[TaskName, Card],
        recipe: Recipe,
        validation: tuple[Sample, ...],
        *,
        epoch_steps: int,
    ) -> None:
        super().__init__(cards, recipe, validation)
        self._held_back, self._epoch_steps = validation, epoch_steps

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(
            self.networks.parameters(), lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, EPOCHS_PER_DECADE * self._epoch_steps, gamma=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the validation scores often enough for a curve, whatever the loop's own rhythm is."""
        del outputs, batch, batch_idx
        every = max(1, self.recipe.steps // CURVE_POINTS)
        if self.global_step % every == 0 or self.global_step == self.recipe.steps:
            for own in self.validate().values():
                for logger in self.loggers:
                    logger.log_metrics(own, step=self.global_step - 1)

    def validate(self) -> dict[TaskName, dict[str, float]]:
        return {task: talk_scores(self.network(task), card, self._held_back) for task, card in self.cards.items()}


def talk_scores(network: nn.Module, card: Card, samples: Sequence[Sample]) -> dict[str, float]:
    """Dice and Rand loss of a lesion network on whole slices, both in 0..1.

    ``dice`` is the mean over the slices that hold the class, then over the classes (``dice_<class>`` where there are
    several); ``rand_loss`` is the mean over all slices, lesion-free ones included. Slices whose labels do not tell the
    kind of lesion score no kind.
    """
    overlap: dict[str, list[float]] = {}
    rand: list[float] = []
    for decision, sample in zip(decisions(network, card, samples), samples, strict=True):
        comparable = _comparable(decision, sample, card.task)
        if comparable is None:
            continue
        mask, truth, classes = comparable
        rand.append(rand_error(mask, truth))
        for value, name in classes.items():
            if (truth == value).any():
                overlap.setdefault(name, []).append(dice(mask == value, truth == value))
    by_class = {f"dice_{name.replace(' ', '_')}": float(np.mean(values)) for name, values in sorted(overlap.items())}
    several = by_class if card.task == "multiclass_segmentation" else {}
    return {
        "dice": float(np.mean(list(by_class.values()))) if by_class else 0.0,
        "rand_loss": float(np.mean(rand)) if rand else 0.0,
        **several,
    }


def _comparable(
    mask: NDArray[np.uint8], sample: Sample, task: TaskName
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], dict[int, str]] | None:
    """Prediction and truth in the same terms, and the classes that they can be scored on; None where there are none."""
    if task == "binary_segmentation":
        if sample.supervision not in LESION_KNOWN:
            return None
        return mask, (sample.labels > 0).astype(np.uint8), {1: "lesion"}
    match sample.supervision:
        case "types":
            return mask, sample.labels, {value: LESION_TYPES[value] for value in (1, 2)}
        case "effusion":
            return (mask == 3).astype(np.uint8), sample.labels, {1: LESION_TYPES[3]}
        case "lesion":
            return None
