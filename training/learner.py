"""What is trained: the networks of one task or of several that share all but their last layer."""

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..engines.samples import LESION_KNOWN, SUPERVISIONS, UNKNOWN, Sample
from ..model.card import Card
from ..model.errors import UsageError
from ..model.networks import build
from ..model.pixels import Preprocess
from ..model.tasks import TaskName
from .depthwise import speed_up_depthwise
from .losses import binary_loss, partial_label_loss
from .recipes import Recipe
from .scores import score

SCORE = "score"
#: Image, labels, lung, supervision: a batch of ``Item``.
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def build_together(cards: Mapping[TaskName, Card]) -> nn.ModuleDict:
    """One network a task. Several tasks share everything but their ``head``, so one pass teaches them all.

    Raises:
        UsageError: networks that cannot share: another family or other parameters, or no ``features`` and ``head``.
    """
    networks = {task: build(card) for task, card in cards.items()}
    if len(networks) > 1:
        first, *others = networks.values()
        are_alike = len({card.network.model_dump_json() for card in cards.values()}) == 1
        if not (are_alike and hasattr(first, "features") and all(card.spec.is_segmentation for card in cards.values())):
            raise UsageError("tasks that train together need one segmentation family with the same parameters")
        for other in others:
            for name, module in first.named_children():
                if name != "head":
                    setattr(other, name, module)
    return nn.ModuleDict(networks)


def _part(network: nn.Module, name: str) -> Callable[[Tensor], Tensor]:
    return getattr(network, name)


def prepare(network: nn.Module) -> None:
    """Lay a network out for fast training; what it computes stays the same."""
    nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    if not torch.cuda.is_available():
        speed_up_depthwise(network)


class Learner(lightning.LightningModule):
    """The networks in training; what they see is the cards' own ``Preprocess``."""

    def __init__(self, cards: Mapping[TaskName, Card], recipe: Recipe, validation: tuple[Sample, ...]) -> None:
        super().__init__()
        self.cards, self.recipe, self._validation = dict(cards), recipe, validation
        self.preprocess = Preprocess(next(iter(cards.values())))
        self.networks = self.build()
        prepare(self.networks)

    def build(self) -> nn.ModuleDict:
        """One network a task."""
        return build_together(self.cards)

    def network(self, task: TaskName) -> nn.Module:
        return self.networks[task]

    def logits(self, pixels: Tensor) -> dict[TaskName, Tensor]:
        """What every task's network says, in one pass through what they share."""
        if len(self.cards) == 1:
            return {task: self.network(task)(pixels) for task in self.cards}
        features = _part(self.network(next(iter(self.cards))), "features")(pixels)
        return {task: _part(self.network(task), "head")(features) for task in self.cards}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        del batch, batch_idx
        # Dropout draws from the step's own seed: a run that was stopped goes on as if it had not been.
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.global_step + self.global_rank * 1_000_000_007)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        pixels = self.preprocess(batch[0]).contiguous(memory_format=torch.channels_last)
        logits = self.logits(pixels)
        with torch.autocast(pixels.device.type, enabled=False):
            losses = {task: self._loss(task, own.float(), batch) for task, own in logits.items()}
        told = {task: loss for task, loss in losses.items() if loss is not None}
        if len(losses) > 1 and told:
            self.log_dict({f"loss_{task}": loss for task, loss in told.items()})
        # A network without a slice to learn from takes part all the same: other processes wait for its gradient.
        silent = [own.float().sum() * 0 for task, own in logits.items() if task not in told]
        loss = torch.stack([*told.values(), *silent]).sum()
        self.log("loss", loss, prog_bar=True)
        return loss

    def _loss(self, task: TaskName, logits: Tensor, batch: Batch) -> Tensor | None:
        """What the task's slices of a batch cost; None where no slice tells the task anything."""
        _, labels, lung, supervision = batch
        if task == "multiclass_segmentation":
            return partial_label_loss(logits, labels, supervision)
        if task == "lung_segmentation":
            drawn = lung[:, 0, 0] != UNKNOWN
            return binary_loss(logits[drawn], lung[drawn]) if bool(drawn.any()) else None
        lesion_known = torch.tensor([SUPERVISIONS.index(name) for name in LESION_KNOWN], device=supervision.device)
        known = torch.isin(supervision, lesion_known)
        if not bool(known.any()):
            return None
        lesion = labels[known] > 0
        if task == "binary_segmentation":
            return binary_loss(logits[known], lesion.to(torch.uint8))
        infected = lesion.float().mean(dim=(1, 2)) >= self.recipe.minimum_lesion
        return F.binary_cross_entropy_with_logits(logits[known, 0], infected.float())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.networks.parameters(), lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.recipe.learning_rate, total_steps=self.recipe.steps, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Scores of the averaged weights; the one batch is a placeholder, the slices are the learner's own."""
        del batch
        # The first process scores and tells the others, for whom early stopping must decide the same.
        scores = self.trainer.strategy.broadcast(self.validate() if self.global_rank == 0 else {})
        # What early stopping watches: the mean of all scores, each in 0..1.
        self.log(SCORE, fmean(value for own in scores.values() for value in own.values()), batch_size=1, sync_dist=True)
        for task, own in scores.items():
            prefix = f"{task}/" if len(self.cards) > 1 else ""
            named = {f"{prefix}{name}": value for name, value in own.items()}
            self.log_dict(named, prog_bar=True, batch_size=1, sync_dist=True)

    def validate(self) -> dict[TaskName, dict[str, float]]:
        """Every task's scores on the slices held back."""
        return {task: score(self.network(task), card, self._validation) for task, card in self.cards.items()}
