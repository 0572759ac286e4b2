"""The training loop: Lightning with bfloat16, channels-last, a cosine schedule and averaged weights."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ..model.card import Card
from ..model.metrics import auc, dice
from ..model.networks import build
from ..model.pixels import Preprocess, build_decide
from ..model.weights import load_network
from .augment import augment
from .losses import SUPERVISIONS, binary_loss, partial_label_loss
from .recipes import Recipe
from .samples import Sample, Split

Batch = tuple[Tensor, Tensor, Tensor]
STEPS_PER_EPOCH = 100
#: What Lightning says of its own insides, or of choices that were made here on purpose.
LIGHTNING_NOISE = (
    ".*isinstance.treespec, LeafSpec.*is deprecated",
    ".*does not have many workers",
    ".*Your `IterableDataset` has `__len__` defined",
    ".*Checkpoint directory .* exists and is not empty",
    ".*Experiment logs directory .* exists and is not empty",
    ".*`isinstance.*` is deprecated",
)


@dataclass(frozen=True)
class Fitted:
    """A trained network and its scores on the validation groups."""

    network: nn.Module
    validation: dict[str, float]


class Views(IterableDataset[tuple[NDArray[np.int16], NDArray[np.uint8], int]]):
    """An endless stream of random views; the draw is decided by ``seed`` and the worker."""

    def __init__(self, samples: tuple[Sample, ...], card: Card, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self._samples, self._recipe, self._seed = samples, recipe, seed
        self._size = (card.geometry.height, card.geometry.width)
        free = np.array([not sample.labels.any() for sample in samples])
        share = recipe.lesion_free_share if free.any() and not free.all() else float(free.all())
        # Small sets count more than their size, or 50 varied slices would drown in 500 alike.
        source = np.array([sample.group.partition("-")[0] for sample in samples])
        size = {name: float(np.sum(source == name)) for name in set(source.tolist())}
        weight = np.array([size[name] ** -0.5 for name in source.tolist()])
        weight = np.where(free, weight / max(weight[free].sum(), 1e-9), weight / max(weight[~free].sum(), 1e-9))
        self._weight = weight * np.where(free, share, 1 - share)
        self._weight /= self._weight.sum()

    def __iter__(self) -> Iterator[tuple[NDArray[np.int16], NDArray[np.uint8], int]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self._seed, worker.id if worker else 0))
        while True:
            sample = self._samples[int(rng.choice(len(self._samples), p=self._weight))]
            image, labels = augment(sample, self._size, self._recipe.augmentation, rng)
            yield image, labels, SUPERVISIONS.index(sample.supervision)


class Bar(TQDMProgressBar):
    """The progress bar, closed also where a run ends early: left open, its last line would be printed at exit."""

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        del trainer, pl_module, exception
        self.train_progress_bar.close()


class Learner(lightning.LightningModule):
    """One network in training; what it sees is the card's own ``Preprocess``."""

    def __init__(self, card: Card, recipe: Recipe, validation: tuple[Sample, ...], start: Path | None) -> None:
        super().__init__()
        self.card, self.recipe = card, recipe
        self._validation = validation
        self.preprocess = Preprocess(card)
        self.network = build(card) if start is None else load_network(card, start).train()
        nn.utils.convert_conv2d_weight_memory_format(self.network, torch.channels_last)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        image, labels, supervision = batch
        logits = self.network(self.preprocess(image).contiguous(memory_format=torch.channels_last)).float()
        loss = self._loss(logits, labels, supervision)
        self.log("loss", loss, prog_bar=True)
        return loss

    def _loss(self, logits: Tensor, labels: Tensor, supervision: Tensor) -> Tensor:
        match self.card.task:
            case "classification":
                infected = labels.float().mean(dim=(1, 2)) >= self.recipe.minimum_lesion
                return F.binary_cross_entropy_with_logits(logits[:, 0], infected.float())
            case "multiclass_segmentation":
                return partial_label_loss(logits, labels, supervision)
            case _:
                return binary_loss(logits, labels)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.recipe.learning_rate, weight_decay=self.recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.recipe.learning_rate, total_steps=self.recipe.steps, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Scores of the averaged weights; the one batch is a placeholder, the slices are the learner's own."""
        del batch
        self.log_dict(validate(self.network, self.card, self._validation), prog_bar=True, batch_size=1)


def validate(network: nn.Module, card: Card, samples: tuple[Sample, ...]) -> dict[str, float]:
    """Scores on whole slices, through the card's own ``Preprocess`` and ``Decide``.

    Segmentation: Dice per class, pooled over the slices whose labels tell that class. Classification: AUC and
    sensitivity and specificity at the operating point.
    """
    preprocess, decide = Preprocess(card), build_decide(card)
    was_training = network.training
    network.eval()
    decisions: list[NDArray[Any]] = []
    with torch.inference_mode():
        for sample in samples:
            image = torch.from_numpy(sample.image[None])
            with torch.autocast("cpu", torch.bfloat16):
                logits = network(preprocess(image).contiguous(memory_format=torch.channels_last))
            logits = logits.float()
            decisions.append((decide(logits, image) if card.spec.is_segmentation else decide(logits)).numpy()[0])
    network.train(was_training)
    if card.task == "classification":
        return _classification_scores(np.array(decisions)[:, 0], samples, card.threshold or 0.5)
    return _dice_scores(decisions, samples, card)


def _classification_scores(
    probability: NDArray[np.float32], samples: tuple[Sample, ...], threshold: float
) -> dict[str, float]:
    infected = np.array([bool(sample.labels.any()) for sample in samples])
    called = probability >= threshold
    return {
        "auc": auc(probability, infected),
        "sensitivity": float(called[infected].mean()),
        "specificity": float((~called[~infected]).mean()),
    }


def _dice_scores(masks: list[NDArray[Any]], samples: tuple[Sample, ...], card: Card) -> dict[str, float]:
    def pooled(pairs: list[tuple[NDArray[Any], NDArray[Any]]]) -> float:
        return dice(np.concatenate([a.ravel() for a, _ in pairs]), np.concatenate([b.ravel() for _, b in pairs]))

    scored = list(zip(masks, samples, strict=True))
    if card.task != "multiclass_segmentation":
        return {"dice": pooled([(mask == 1, sample.labels == 1) for mask, sample in scored])}
    types = [(mask, sample) for mask, sample in scored if sample.supervision == "types"]
    effusion = [(mask, sample) for mask, sample in scored if sample.supervision == "effusion"]
    scores = {
        "dice_ground_glass": pooled([(mask == 1, sample.labels == 1) for mask, sample in types]),
        "dice_consolidation": pooled([(mask == 2, sample.labels == 2) for mask, sample in types]),
    }
    if effusion:
        scores["dice_pleural_effusion"] = pooled([(mask == 3, sample.labels == 1) for mask, sample in effusion])
    return scores


def fit(
    card: Card,
    recipe: Recipe,
    split: Split,
    folder: Path,
    *,
    seed: int,
    workers: int,
    start: Path | None,
    resume: Path | None,
) -> Fitted:
    """Train a network; checkpoints and ``metrics.csv`` go to ``folder``.

    Args:
        start: weights to begin with instead of random ones.
        resume: a checkpoint of this very run to go on from.
    """
    lightning.seed_everything(seed, workers=True, verbose=False)
    learner = Learner(card, recipe, split.validation, start)
    loader = DataLoader(
        Views(split.train, card, recipe, seed),
        batch_size=recipe.batch,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    callbacks: list[Callback] = [
        # The first weights are noise: averaged in, they would spoil the batch-norm statistics for long.
        EMAWeightAveraging(decay=recipe.ema_decay, update_starting_at_step=recipe.steps // 4),
        ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False),
        Bar(refresh_rate=10),
    ]
    trainer = lightning.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=recipe.steps,
        limit_train_batches=STEPS_PER_EPOCH,
        check_val_every_n_epoch=4,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=min(20, STEPS_PER_EPOCH),
        enable_model_summary=False,
        default_root_dir=folder,
    )
    with warnings.catch_warnings():
        for message in LIGHTNING_NOISE:
            warnings.filterwarnings("ignore", message)
        trainer.fit(learner, loader, DataLoader(TensorDataset(torch.zeros(1))), ckpt_path=resume, weights_only=True)
    return Fitted(learner.network.eval(), validate(learner.network, card, split.validation))
