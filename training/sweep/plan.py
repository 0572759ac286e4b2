"""What a sweep is asked for and what it found, apart from how a run is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...model.card import Network
from ...model.tasks import TaskName

RATES = (1e-2, 1e-3, 1e-4, 1e-5)
TASKS: tuple[TaskName, ...] = ("binary_segmentation", "multiclass_segmentation")
#: The talk's own Dice and Rand loss.
TALK: dict[TaskName, dict[float, tuple[float, float]]] = {
    "binary_segmentation": {
        1e-2: (0.5641, 0.2167),
        1e-3: (0.7374, 0.1031),
        1e-4: (0.7965, 0.0766),
        1e-5: (0.4745, 0.1591),
    },
    "multiclass_segmentation": {
        1e-2: (0.5160, 0.2490),
        1e-3: (0.5900, 0.2114),
        1e-4: (0.6160, 0.1985),
        1e-5: (0.5001, 0.2565),
    },
}


@dataclass(frozen=True)
class Budget:
    """What every run of a table is given: ``steps`` of ``batch`` slices at ``size`` x ``size`` pixels."""

    steps: int = 500
    batch: int = 8
    size: int = 128
    features: int = 16
    seed: int = 0

    @property
    def network(self) -> Network:
        return Network(family="unet", parameters={"features": self.features})


@dataclass(frozen=True)
class Run:
    """One finished run: ``scores`` has ``dice`` and ``rand_loss`` on the slices of the groups held back."""

    task: TaskName
    rate: float
    budget: Budget
    data_sha256: str
    scores: dict[str, float]
    minutes: float

    @property
    def dice(self) -> float:
        return self.scores["dice"]

    @property
    def rand_loss(self) -> float:
        return self.scores["rand_loss"]


def rate_name(rate: float) -> str:
    """``1e-3`` for .001: how a rate is written in tables and in names of folders."""
    mantissa, _, exponent = f"{rate:e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def run_folder(out: Path, task: TaskName, rate: float) -> Path:
    return out / task / rate_name(rate)


def best(runs: Sequence[Run]) -> Run:
    """The run with the highest Dice; the lower Rand loss breaks a tie."""
    return max(runs, key=lambda run: (run.dice, -run.rand_loss))
