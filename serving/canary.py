"""The canary: one small slice through the served models, and whether the answer is the right one.

What is right was computed once by the same files in this process, on ONNX Runtime, whatever the server runs them on.
So a server that answers in time and in shape but with zeros, as Triton's model processes do under numpy 2, is found
out. The differences between backends and precisions that export's gates let pass are let pass here.

No two canaries are the same slice: each has noise of its own, far below a CT's and so without weight for the answer.
The server's response cache, which knows a request by its tensors, has never seen it, and a dead model cannot look well
because of what it said while it lived.
"""

import hashlib
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from ..engines.base import Tensors
from ..engines.places import cache_home
from ..engines.predictor import IMAGE
from ..engines.triton_wire import ServedStep
from ..model.phantom import make_labelled_phantom
from ..model.tasks import ENSEMBLE, TRIAGE
from .linter.filled import INDEX, VERSION
from .probe import Probe, ProbeError
from .repository import CONFIG
from .step import open_step
from .triton_config import parse_config

#: Part of a cached answer's name: another canary has another one.
KIND = b"phantom 128, 1"
SIZE = 128
#: How large the root mean square of a float tensor's error may be: this, and this much of the tensor's own.
ABSOLUTE, RELATIVE = 0.05, 0.1
#: How many of the pixels that either mask calls something may have another label in the other.
DISAGREEMENT = 0.2
#: Pixels that may differ whatever the masks hold: those at the edge of a small lesion.
FEW_PIXELS = 64
#: The noise of an image in HU, and that of a float tensor as a share of each of its values: this, up or down.
NOISE_HU, NOISE_SHARE = 1, 1e-3


@dataclass(frozen=True)
class GatedModel:
    """What ``coronanet_triage`` does: the ``masks`` of slices whose ``probability`` is below ``threshold`` are 0."""

    probability: str
    masks: tuple[str, ...]
    threshold: float

    @classmethod
    def of(cls, config: str) -> "GatedModel":
        """From the text of its ``config.pbtxt``."""
        parameters: dict[str, Any] = json_format.MessageToDict(parse_config(config))["parameters"]
        told = {name: value["stringValue"] for name, value in parameters.items()}
        return cls(told["gate"], tuple(told["gated"].split(",")), float(told["threshold"]))

    def expected(self, right: Tensors, answer: Tensors) -> Tensors:
        """What ``answer`` should be where the ensemble's is ``right``, by the probability of its one slice."""
        infected = not np.any(answer[self.probability] < self.threshold)
        return {name: right[name] * infected if name in self.masks else right[name] for name in answer}


@dataclass(frozen=True)
class Canary:
    """The right values of every tensor of an ensemble for one slice of the phantom.

    Attributes:
        steps: the models, in the order in which they run.
        tensors: every tensor of the ensemble by its name there, with ``image`` int16 HU ``[1, 128, 128]``.
        gated: the gated model, where the repository has it.
    """

    steps: tuple[ServedStep, ...]
    tensors: Tensors
    gated: GatedModel | None = None

    @classmethod
    def of(cls, repository: Path) -> "Canary":
        """The canary of a filled repository: from the cache, else computed now, which takes about two seconds.

        Raises:
            UsageError: a step cannot be opened.
            RefusedError: a step's file was changed.
        """
        steps = ensemble_steps((repository / ENSEMBLE / CONFIG).read_text(encoding="utf-8"))
        index = (repository / INDEX).read_bytes()
        kept = cache_home() / "triton" / "canaries" / f"{hashlib.sha256(KIND + index).hexdigest()}.npz"
        if not kept.is_file():
            _save(kept, _compute(repository, steps))
        with np.load(kept, allow_pickle=False) as stored:
            tensors = dict(stored)
        config = repository / TRIAGE / CONFIG
        return cls(steps, tensors, GatedModel.of(config.read_text(encoding="utf-8")) if config.is_file() else None)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the ensemble: what no step reads."""
        read = {name for step in self.steps for name in step.reads.values()}
        return tuple(name for step in self.steps for name in step.writes.values() if name not in read)

    @property
    def whole(self) -> tuple[str, ...]:
        """The models that answer for the whole chain: the ensemble, and the gated one, which asks it."""
        return (ENSEMBLE, TRIAGE) if self.gated else (ENSEMBLE,)

    def first_failure(self, probe: Probe, timeout_s: float) -> tuple[str, ProbeError] | None:
        """The first model of ``whole`` that gives no right answer, all of them in ``timeout_s`` seconds, and why."""
        deadline = time.monotonic() + timeout_s
        for model in self.whole:
            try:
                self.ask_model(probe, model, max(0.001, deadline - time.monotonic()))
            except ProbeError as error:
                return model, error
        return None

    def ask_model(self, probe: Probe, model: str, timeout_s: float) -> None:
        """Ask one model, a step or one of ``whole``, for what it puts out, with what it would get of those before it.

        Raises:
            ProbeError: it does not answer, or its answer is not right.
        """
        if model in self.whole:
            answer = probe.ask(model, {"image": unseen(self.tensors["image"])}, self.outputs, timeout_s)
            gated = self.gated if model == TRIAGE else None
            _compare(gated.expected(self.tensors, answer) if gated else self.tensors, answer)
            return
        step = next(step for step in self.steps if step.model == model)
        feeds = {name: unseen(self.tensors[tensor]) for name, tensor in step.reads.items()}
        answer = probe.ask(model, feeds, tuple(step.writes), timeout_s)
        _compare(self.tensors, {tensor: answer[name] for name, tensor in step.writes.items()})


def ensemble_steps(config: str) -> tuple[ServedStep, ...]:
    """The steps of an ensemble, from the text of its ``config.pbtxt``."""
    described: dict[str, Any] = json_format.MessageToDict(parse_config(config))
    return tuple(
        ServedStep(step["modelName"], step["inputMap"], step["outputMap"])
        for step in described["ensembleScheduling"]["step"]
    )


def unseen(tensor: NDArray[Any]) -> NDArray[Any]:
    """The tensor with noise that no request had before: int16 HU, or floats."""
    noise = np.random.default_rng()
    if tensor.dtype == np.int16:
        return tensor + noise.integers(-NOISE_HU, NOISE_HU + 1, tensor.shape, dtype=np.int16)
    return (tensor * noise.uniform(1 - NOISE_SHARE, 1 + NOISE_SHARE, tensor.shape)).astype(tensor.dtype)


def difference(expected: NDArray[Any], received: NDArray[Any]) -> str:
    """Why ``received`` is not the expected tensor, in words; empty where it is, within the tolerance of its kind."""
    if received.dtype != expected.dtype or received.shape != expected.shape:
        return f"expected {expected.dtype} {list(expected.shape)}, got {received.dtype} {list(received.shape)}"
    if expected.dtype == np.uint8:
        return _labels_differ(expected, received)
    error, allowed = _rms(received - expected), ABSOLUTE + RELATIVE * _rms(expected)
    # Not "greater than", which no NaN is.
    return "" if error <= allowed else f"its values are {error:.3g} off, expected at most {allowed:.3g}"


def _compare(right: Tensors, answer: Tensors) -> None:
    for name, received in answer.items():
        if reason := difference(right[name], received):
            raise ProbeError("wrong", f"{name} is wrong: {reason}")


def _labels_differ(expected: NDArray[Any], received: NDArray[Any]) -> str:
    differ = np.count_nonzero(expected != received)
    allowed = max(FEW_PIXELS, int(DISAGREEMENT * np.count_nonzero((expected > 0) | (received > 0))))
    return "" if differ <= allowed else f"{differ} pixels have another label, expected at most {allowed}"


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _compute(repository: Path, steps: tuple[ServedStep, ...]) -> dict[str, NDArray[Any]]:
    """The chain in this process, one step after the other."""
    tensors: dict[str, NDArray[Any]] = {IMAGE.name: make_labelled_phantom(size=SIZE, slices=1).study.image}
    for step in steps:
        with open_step(repository / step.model / VERSION, backend="onnxruntime") as engine:
            answer = engine.infer({name: tensors[tensor] for name, tensor in step.reads.items()})
        tensors.update({tensor: answer[name] for name, tensor in step.writes.items()})
    return tensors


def _save(path: Path, tensors: Tensors) -> None:
    """Write tensors whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".canary-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, **tensors)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
