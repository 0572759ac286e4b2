"""Checkpoints that a kill or a full disk cannot spoil: written beside the last one, then renamed over it."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ..model.errors import UsageError


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
