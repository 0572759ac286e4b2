"""How far a training run is and how long it still takes."""

from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..console import err

#: Seconds over which the speed is averaged: an epoch with its validation.
SPEED_SECONDS = 600.0


class Bar(ProgressBar):
    """The steps of the whole run with the time left; after every validation a line that stays.

    Where stderr is a file, only those lines are written.
    """

    def __init__(self) -> None:
        super().__init__()
        # Without a thread that refreshes: the processes that prepare slices are forked while the bar is up.
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            auto_refresh=False,
            speed_estimate_period=SPEED_SECONDS,
            disable=not err.is_terminal,
        )
        self._task = self._progress.add_task("", visible=False, total=None)
        self._is_shown = True

    def disable(self) -> None:
        """Called by Lightning in every process but the first."""
        self._is_shown = False

    def enable(self) -> None:
        self._is_shown = True

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        if self._is_shown:
            self._progress.start()
            self._progress.reset(self._task, total=trainer.max_steps, completed=trainer.global_step, visible=True)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        del outputs, batch, batch_idx
        if not self._is_shown:
            return
        shown = _figures(self.get_metrics(trainer, pl_module))
        self._progress.update(self._task, completed=trainer.global_step, description=f"training {shown}", refresh=True)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del pl_module
        if not self._is_shown:
            return
        left = self._progress.tasks[0].time_remaining
        time_left = f", {left / 60:.0f} min left" if left is not None else ""
        scores = {name: float(value) for name, value in trainer.callback_metrics.items()}
        line = f"step {trainer.global_step} of {trainer.max_steps}: {_figures(scores)}{time_left}"
        self._progress.console.print(line, soft_wrap=True)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        del trainer, pl_module
        self._progress.stop()

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        del trainer, pl_module, exception
        self._progress.stop()


def _figures(metrics: dict[str, Any]) -> str:
    return " ".join(f"{name} {value:.3g}" for name, value in metrics.items() if isinstance(value, float))
