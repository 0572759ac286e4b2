"""One step of the embedded server: what stands in ``step.json``, and the engine that it opens.

The template that Triton runs is this module's only other half: it turns Triton's tensors into arrays and back.
"""

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from ..engines.base import Engine
from ..engines.bundle import Graph, Precision, TensorRecord, hash_file
from ..engines.open import Backend, file_precision, open_onnx
from ..model.card import StrictModel, explain
from ..model.errors import RefusedError, UsageError

STEP = "step.json"
REMEDY = "fill the repository again with `coronanet repository`"


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


def open_step(folder: Path, *, backend: Backend | None = None) -> Engine:
    """The engine of the version folder of a step, its file's hash checked.

    Args:
        folder: the version folder of a filled repository.
        backend: another backend for the step's own file; None takes the one that the step names.

    Raises:
        UsageError: ``step.json`` is missing or not valid, or the engine cannot be opened.
        RefusedError: the ONNX file is missing or is not the one of the bundle.
    """
    path = folder / STEP
    if not path.is_file():
        raise UsageError(f"no {STEP} in {folder}: {REMEDY}")
    try:
        step = StepFile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UsageError(f"{path} is not a valid step: {explain(error)}: {REMEDY}") from None
    file = folder / Path(step.file).name
    if not file.is_file() or hash_file(file) != step.sha256:
        raise RefusedError(
            f"{file} is missing or was changed (its hash is not the bundle's): {REMEDY}", page="corrupted-file"
        )
    return open_onnx(
        file,
        tuple(tensor.spec for tensor in step.inputs),
        tuple(tensor.spec for tensor in step.outputs),
        step.max_batch,
        backend=backend or step.backend,
        precision=step.precision if backend is None else file_precision(step.backend, step.precision),
        threads=step.threads,
    )
