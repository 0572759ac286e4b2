"""What stands in ``step.json``, as `coronanet repository` writes it; ``step`` reads it."""

from typing import Literal

from ..engines.bundle import Graph, Precision, TensorRecord
from ..engines.open import Backend
from ..model.card import StrictModel


class StepFile(StrictModel):
    """``step.json``: which file of which bundle a step runs, and how this machine runs it."""

    schema_version: Literal[1] = 1
    bundle: str
    bundle_sha256: str
    graph: Graph
    file: str
    sha256: str
    backend: Backend
    precision: Precision
    threads: int
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    max_batch: int

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"
