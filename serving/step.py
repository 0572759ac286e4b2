"""One step of the embedded server: the engine that ``step.json`` names.

The template that Triton runs is this module's only other half: it turns Triton's tensors into arrays and back. A server
starts a dozen processes that import this at once, so nothing heavy is imported but the one engine: reading the file
without pydantic, whose hash was checked before the start, saves a third of what a process needs to start.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from ..engines.base import Engine, TensorSpec
from ..model.errors import MissingPackageError, RefusedError, UsageError

STEP = "step.json"
REMEDY = "fill the repository again with `coronanet repository`"


def open_step(folder: Path, *, backend: str | None = None) -> Engine:
    """The engine of the version folder of a step, its file's hash checked.

    Args:
        folder: the version folder of a filled repository.
        backend: another backend for the step's own file; None takes the one that the step names.

    Raises:
        MissingPackageError: the backend is not installed.
        UsageError: ``step.json`` is missing or not valid, or the engine cannot be opened.
        RefusedError: the ONNX file is missing or is not the one of the bundle.
    """
    path = folder / STEP
    if not path.is_file():
        raise UsageError(f"no {STEP} in {folder}: {REMEDY}")
    try:
        step: dict[str, Any] = json.loads(path.read_bytes())
        file, sha256 = folder / Path(step["file"]).name, step["sha256"]
        inputs, outputs = _specs(step["inputs"]), _specs(step["outputs"])
        named, precision = step["backend"], step["precision"]
        threads, max_batch = int(step["threads"]), int(step["max_batch"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a valid step: {type(error).__name__}: {error}: {REMEDY}") from None
    if not file.is_file() or _hash(file) != sha256:
        raise RefusedError(
            f"{file} is missing or was changed (its hash is not the bundle's): {REMEDY}", page="corrupted-file"
        )
    chosen = backend or named
    try:
        match chosen:
            case "onnxruntime":
                from ..engines.onnxruntime_engine import OnnxRuntimeEngine

                return OnnxRuntimeEngine(file, inputs, outputs, max_batch, threads=threads)
            case "openvino":
                from ..engines.openvino_engine import OpenVinoEngine

                arithmetic = "bf16" if precision == "bf16" else "fp32"
                return OpenVinoEngine(file, inputs, outputs, max_batch, precision=arithmetic, threads=threads)
            case _:
                raise UsageError(f"{path} names the backend {chosen}: expected onnxruntime or openvino: {REMEDY}")
    except ModuleNotFoundError:
        raise MissingPackageError(chosen, purpose=f"the {chosen} backend", extra="cpu") from None


def _specs(tensors: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(tensor["name"], tensor["dtype"], tuple(tensor["shape"])) for tensor in tensors)


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
