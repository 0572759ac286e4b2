"""The card that travels with weights: what the network is, what it saw, how it decides."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import UsageError
from .tasks import TASKS, Task, TaskName


class StrictModel(BaseModel):
    """Data that comes from a file: frozen, and an unknown or missing key is an error that names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


#: The family of a network whose code is the user's, and no part of this project.
OWN_FAMILY = "own"


class Network(StrictModel):
    """The network's family, a file of ``model/networks`` or ``own``, and its hyperparameters."""

    family: str
    parameters: dict[str, int | float | str]

    @property
    def is_own(self) -> bool:
        return self.family == OWN_FAMILY


class Geometry(StrictModel):
    """The size in pixels that the network works at."""

    height: Annotated[int, Field(ge=32, le=2048, multiple_of=32)]
    width: Annotated[int, Field(ge=32, le=2048, multiple_of=32)]


class Window(StrictModel):
    """The Hounsfield interval that the network sees; everything outside is clipped."""

    low_hu: Annotated[float, Field(ge=-1024 * 4, le=4095)]
    high_hu: Annotated[float, Field(ge=-1024 * 4, le=4095)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low_hu >= self.high_hu:
            raise ValueError(f"low_hu {self.low_hu} must be below high_hu {self.high_hu}")
        return self


class Normalisation(StrictModel):
    """Mean and standard deviation of the windowed intensities, which lie in 0..1."""

    mean: float
    std: Annotated[float, Field(gt=0)]


class TrainingData(StrictModel):
    """Which data sets taught the network, and a fingerprint of exactly those files."""

    sources: tuple[str, ...]
    slices: int
    sha256: str


class Card(StrictModel):
    """Everything that turns a file of weights into a network that can be trusted.

    ``threshold`` is the operating point on the probability, in 0..1; a multi-class network decides by the largest
    probability and has none. ``tolerance`` is the largest share of labels (pixels, or decisions for a classifier) on
    which a deployed form may differ from the torch reference.
    """

    schema_version: Literal[1] = 1
    task: TaskName
    network: Network
    labels: tuple[str, ...]
    geometry: Geometry
    window: Window
    normalisation: Normalisation
    threshold: Annotated[float, Field(gt=0, lt=1)] | None
    tolerance: Annotated[float, Field(ge=0, lt=1)]
    training_data: TrainingData
    validation: dict[str, float]
    licence: str
    intended_use: str

    @model_validator(mode="after")
    def _fits_its_task(self) -> Self:
        task = TASKS[self.task]
        if self.labels != task.labels:
            raise ValueError(f"labels of {self.task} must be {list(task.labels)}, got {list(self.labels)}")
        if (self.threshold is None) != (task.channels > 1):
            wanted = "null (the largest probability decides)" if task.channels > 1 else "a number between 0 and 1"
            raise ValueError(f"threshold of {self.task} must be {wanted}, got {self.threshold}")
        return self

    @property
    def spec(self) -> Task:
        return TASKS[self.task]

    @property
    def recipe(self) -> str:
        """Eight hexadecimal digits that are equal where two cards ask for the same preprocessing."""
        parts = (self.geometry, self.window, self.normalisation)
        text = json.dumps([part.model_dump() for part in parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, origin: str) -> Self:
        """Parse a card; ``origin`` names it in the error.

        Raises:
            UsageError: a key is unknown, missing or has a value that does not fit, each named.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise UsageError(f"{origin} is not a valid card: {explain(error)}") from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read ``card.json``.

        Raises:
            UsageError: the file is missing or not a valid card.
        """
        if not path.is_file():
            raise UsageError(f"no card at {path}: weights travel with a card.json beside them")
        return cls.from_json(path.read_text(encoding="utf-8"), origin=str(path))


def explain(error: ValidationError) -> str:
    """A validation error in one line that names every key."""
    return "; ".join(
        f"{'.'.join(str(part) for part in item['loc']) or 'value'}: {item['msg'].removeprefix('Value error, ')}"
        for item in error.errors(include_url=False)
    )
