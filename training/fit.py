"""The training loop: Lightning with bfloat16, channels-last, a cosine schedule and averaged weights."""

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ..engines.samples import Sample, Split
from ..model.card import Card
from ..model.errors import UsageError
from ..model.tasks import TaskName
from ..model.weights import take_weights
from .averaging import Averaging
from .checkpoints import LAST, AtomicCheckpoints, Checkpoints, steps_done
from .curves import BoardCurve, CsvCurve
from .imagenet import take_imagenet
from .learner import SCORE, Learner
from .progress import Bar
from .recipes import Recipe
from .views import Positions, Views

#: Points of the loss curve: every so many steps, and in a short run at least so many.
STEPS_PER_POINT, FEWEST_POINTS = 20, 10
#: What Lightning says of its own insides, or of choices that were made here on purpose.
LIGHTNING_NOISE = (
    ".*isinstance.treespec, LeafSpec.*is deprecated",
    ".*does not have many workers",
    ".*Checkpoint directory .* exists and is not empty",
    ".*Experiment logs directory .* exists and is not empty",
    ".*`isinstance.*` is deprecated",
    # The positions of a run are resumable; Lightning looks for another interface.
    ".*your dataloader is not resumable",
)

#: Builds a ``Learner`` from cards, recipe and validation slices.
LearnerFactory = Callable[[Mapping[TaskName, Card], Recipe, tuple[Sample, ...]], Learner]


@dataclass(frozen=True)
class Fitted:
    """The trained networks, and their scores on the validation groups; ``is_first`` in the process that publishes."""

    networks: dict[TaskName, nn.Module]
    validation: dict[TaskName, dict[str, float]]
    is_first: bool


def fit(
    cards: Mapping[TaskName, Card],
    recipe: Recipe,
    split: Split,
    folder: Path,
    *,
    workers: int,
    start: Path | None,
    resume: Path | None,
    devices: int = 1,
    make_learner: LearnerFactory = Learner,
) -> Fitted:
    """Train the networks of one task, or of several together.

    ``last.ckpt``, ``metrics.csv`` and ``tensorboard/`` go to ``folder``.

    Args:
        start: weights to begin with instead of random ones, as far as they fit: a file, or a folder with one a task.
        resume: a checkpoint of this very run to go on from.
        devices: processes that share every batch: one a GPU, or on the CPU through gloo. Batch-norm statistics are
            those of each process's share, and the first process's are kept.
        make_learner: builds what is trained, where it is not the usual ``Learner``.

    Raises:
        UsageError: the batch cannot be shared by ``devices``, or there are fewer GPUs; ``resume`` or ``start`` cannot
            be read, or do not fit.
        OSError: the disk is full; the last checkpoint stays what it was.
    """
    on_gpu = torch.cuda.is_available()
    _check_devices(devices, recipe.batch, torch.cuda.device_count() if on_gpu else devices)
    for name in ("lightning.pytorch", "lightning.fabric"):
        # Its advice and its account of the hardware; warnings stay.
        logging.getLogger(name).setLevel(logging.WARNING)
    lightning.seed_everything(recipe.seed, workers=True, verbose=False)
    learner = make_learner(cards, recipe, split.validation)
    if resume is None:
        for task in cards:
            if start is not None:
                take_weights(learner.network(task), start / task / "weights.safetensors" if start.is_dir() else start)
            elif recipe.imagenet:
                take_imagenet(learner.network(task))
    done = 0 if resume is None else steps_done(resume)
    geometry = next(iter(cards.values())).geometry
    trainer = lightning.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=devices,
        strategy=DDPStrategy(process_group_backend="nccl" if on_gpu else "gloo") if devices > 1 else "auto",
        plugins=[AtomicCheckpoints()],
        enable_checkpointing=False,
        precision="bf16-mixed",
        max_steps=recipe.steps,
        val_check_interval=recipe.validation_steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=_callbacks(learner, folder),
        logger=[CsvCurve(folder, begin=done), BoardCurve(folder / "tensorboard", begin=done)],
        log_every_n_steps=max(1, min(STEPS_PER_POINT, recipe.steps // FEWEST_POINTS)),
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
    )
    loader = DataLoader(
        Views(split.train, geometry, recipe),
        batch_size=recipe.batch // devices,
        sampler=Positions(recipe.steps, recipe.batch, first=done, rank=trainer.global_rank, processes=devices),
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=on_gpu,
    )
    with warnings.catch_warnings():
        for message in LIGHTNING_NOISE:
            warnings.filterwarnings("ignore", message)
        try:
            trainer.fit(learner, loader, DataLoader(TensorDataset(torch.zeros(1))), ckpt_path=resume, weights_only=True)
        except SystemExit:
            # What Lightning makes of Ctrl-C.
            raise KeyboardInterrupt from None
    scores = learner.validate() if trainer.is_global_zero else {}
    return Fitted({task: learner.network(task).eval() for task in cards}, scores, trainer.is_global_zero)


def _callbacks(learner: Learner, folder: Path) -> list[Callback]:
    recipe = learner.recipe
    callbacks: list[Callback] = [
        # The first weights are noise: averaged in, they would spoil the batch-norm statistics for long.
        Averaging(decay=recipe.ema_decay, begin=recipe.steps // 4),
        Bar(),
    ]
    if recipe.patience is not None:
        callbacks.append(EarlyStopping(SCORE, patience=recipe.patience, mode="max"))
    # Last, so that it holds what the others have come to.
    return [*callbacks, Checkpoints(folder / LAST, recipe.checkpoint_steps, recipe.validation_steps)]


def _check_devices(devices: int, batch: int, available: int) -> None:
    if devices > available:
        raise UsageError(f"{devices} processes need a GPU each, and there are {available}: pass --devices {available}")
    if batch % devices:
        raise UsageError(f"{devices} processes cannot share batches of {batch}: expected a multiple of {devices}")
