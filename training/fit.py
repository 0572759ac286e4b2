"""The training loop: Lightning with bfloat16, channels-last, a cosine schedule and averaged weights."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ..model.card import Card
from ..model.tasks import TaskName
from ..model.weights import take_weights
from .imagenet import take_imagenet
from .learner import Learner
from .recipes import Recipe
from .samples import Split
from .views import Epochs, Views

STEPS_PER_EPOCH = 100
#: What Lightning says of its own insides, or of choices that were made here on purpose.
LIGHTNING_NOISE = (
    ".*isinstance.treespec, LeafSpec.*is deprecated",
    ".*does not have many workers",
    ".*Checkpoint directory .* exists and is not empty",
    ".*Experiment logs directory .* exists and is not empty",
    ".*`isinstance.*` is deprecated",
)


@dataclass(frozen=True)
class Fitted:
    """The trained networks, and their scores on the validation groups."""

    networks: dict[TaskName, nn.Module]
    validation: dict[TaskName, dict[str, float]]


class Bar(TQDMProgressBar):
    """The progress bar, closed also where a run ends early: left open, its last line would be printed at exit."""

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        del trainer, pl_module, exception
        self.train_progress_bar.close()


def fit(
    cards: Mapping[TaskName, Card],
    recipe: Recipe,
    split: Split,
    folder: Path,
    *,
    seed: int,
    workers: int,
    start: Path | None,
    resume: Path | None,
) -> Fitted:
    """Train the networks of one task, or of several together; checkpoints and ``metrics.csv`` go to ``folder``.

    Args:
        start: weights to begin with instead of random ones, as far as they fit.
        resume: a checkpoint of this very run to go on from.
    """
    lightning.seed_everything(seed, workers=True, verbose=False)
    learner = Learner(cards, recipe, split.validation, seed)
    if resume is None:
        for task in cards:
            if start is not None:
                take_weights(learner.network(task), start)
            elif recipe.imagenet:
                take_imagenet(learner.network(task))
    geometry = next(iter(cards.values())).geometry
    loader = DataLoader(
        Views(split.train, geometry, recipe, seed),
        batch_size=recipe.batch,
        sampler=Epochs(STEPS_PER_EPOCH * recipe.batch),
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
        check_val_every_n_epoch=5,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=min(20, STEPS_PER_EPOCH),
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        for message in LIGHTNING_NOISE:
            warnings.filterwarnings("ignore", message)
        trainer.fit(learner, loader, DataLoader(TensorDataset(torch.zeros(1))), ckpt_path=resume, weights_only=True)
    return Fitted({task: learner.network(task).eval() for task in cards}, learner.validate())
