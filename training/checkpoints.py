"""Checkpoints that a kill or a full disk cannot spoil: written beside the last one, then renamed over it."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..model.errors import UsageError

#: The name of a run's checkpoint.
LAST = "last.ckpt"


class Checkpoints(Callback):
    """Writes a checkpoint every so many steps: what a killed run loses at most.

    Where a validation is due at the same step, the checkpoint waits for it: a run that goes on does no validation again
    that its checkpoint has seen begin, so the curve would have a gap, and early stopping would have missed a look.

    Args:
        path: of the checkpoint; each takes the place of the one before.
        every: steps between two checkpoints.
        validation_steps: steps between two validations.
    """

    def __init__(self, path: Path, every: int, validation_steps: int) -> None:
        self._path, self._every, self._validation_steps = path, every, validation_steps

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del pl_module, outputs, batch, batch_idx
        if trainer.global_step % self._validation_steps:
            self._save(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        if trainer.global_step % self._every == 0:
            trainer.save_checkpoint(self._path)


class AtomicCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoints through a temporary file and a rename."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Raises ``OSError`` where the disk is full; the previous checkpoint stays what it was."""
        del storage_options
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        part = target.with_suffix(".part")
        try:
            with part.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OSError(
                error.errno, f"{os.strerror(error.errno or 0)} while a checkpoint was written", str(target)
            ) from None


def steps_done(path: Path) -> int:
    """How many steps a checkpoint has behind it.

    Raises:
        UsageError: the checkpoint cannot be read, such as one that is cut off.
    """
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["global_step"])
    except (RuntimeError, OSError, EOFError, KeyError, pickle.UnpicklingError):
        size = path.stat().st_size
        raise UsageError(
            f"{path} is not a whole checkpoint ({size} bytes): delete it, and the run begins anew"
        ) from None
