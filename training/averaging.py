"""The exponential moving average of the weights, which is what is scored and published."""

import lightning
from lightning.pytorch.callbacks import EMAWeightAveraging


class Averaging(EMAWeightAveraging):
    """Lightning's average, but the current weights stand for it for as long as it has not begun.

    Until then Lightning's holds the first weights of all: they would be scored in place of what was learnt, and
    published where a run ends early.

    Args:
        decay: share of the average that each step keeps, in 0..1.
        begin: the step that the average begins at.
    """

    def __init__(self, decay: float, begin: int) -> None:
        super().__init__(decay=decay, update_starting_at_step=begin)

    def on_validation_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._has_begun():
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._has_begun():
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Nothing: see ``on_fit_end``."""

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # A finished run that is resumed trains no more, and ``on_train_end`` is not called; it must publish the same.
        if self._has_begun():
            super().on_train_end(trainer, pl_module)

    def _has_begun(self) -> bool:
        return self._average_model is not None and int(self._average_model.n_averaged) > 0
