"""The canary: one small slice through the served ensemble, and whether the answer is the right one.

What is right was computed once by the same files in this process, on ONNX Runtime, whatever the server runs them on.
So a server that answers in time and in shape but with zeros, as Triton's model processes do under numpy 2, is found
out. The differences between backends and precisions that export's gates let pass are let pass here.
"""

import hashlib
import os
import tempfile
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
from ..model.tasks import ENSEMBLE
from .probe import Probe, ProbeError
from .repository import CONFIG, INDEX, VERSION
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


@dataclass(frozen=True)
class Canary:
    """The right values of every tensor of an ensemble for one slice of the phantom.

    Attributes:
        steps: the models, in the order in which they run.
        tensors: every tensor of the ensemble by its name there, with ``image`` int16 HU ``[1, 128, 128]``.
    """

    steps: tuple[ServedStep, ...]
    tensors: Tensors

    @classmethod
    def of(cls, repository: Path) -> "Canary":
        """The canary of a filled repository: from the cache, else computed now, which takes about two seconds.

        Raises:
            UsageError: a step cannot be opened.
            RefusedError: a step's file was changed.
        """
        steps = ensemble_steps((repository / ENSEMBLE / CONFIG).read_text(encoding="utf-8"))
        index = (repository / ENSEMBLE / VERSION / INDEX).read_bytes()
        kept = cache_home() / "triton" / "canaries" / f"{hashlib.sha256(KIND + index).hexdigest()}.npz"
        if not kept.is_file():
            _save(kept, _compute(repository, steps))
        with np.load(kept, allow_pickle=False) as stored:
            return cls(steps, dict(stored))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The outputs of the ensemble: what no step reads."""
        read = {name for step in self.steps for name in step.reads.values()}
        return tuple(name for step in self.steps for name in step.writes.values() if name not in read)

    def ask(self, probe: Probe, timeout_s: float) -> None:
        """Ask the ensemble for all outputs.

        Raises:
            ProbeError: it does not answer, or its answer is not right.
        """
        answer = probe.ask(ENSEMBLE, {"image": self.tensors["image"]}, self.outputs, timeout_s)
        self._compare({name: answer[name] for name in self.outputs})

    def ask_step(self, probe: Probe, model: str, timeout_s: float) -> None:
        """Ask one model for what it puts out, with what it would get of the steps before it.

        Raises:
            ProbeError: it does not answer, or its answer is not right.
        """
        step = next(step for step in self.steps if step.model == model)
        feeds = {name: self.tensors[tensor] for name, tensor in step.reads.items()}
        answer = probe.ask(model, feeds, tuple(step.writes), timeout_s)
        self._compare({tensor: answer[name] for name, tensor in step.writes.items()})

    def _compare(self, answer: Tensors) -> None:
        for name, received in answer.items():
            if reason := difference(self.tensors[name], received):
                raise ProbeError("wrong", f"{name} is wrong: {reason}")


def ensemble_steps(config: str) -> tuple[ServedStep, ...]:
    """The steps of an ensemble, from the text of its ``config.pbtxt``."""
    described: dict[str, Any] = json_format.MessageToDict(parse_config(config))
    return tuple(
        ServedStep(step["modelName"], step["inputMap"], step["outputMap"])
        for step in described["ensembleScheduling"]["step"]
    )


def difference(expected: NDArray[Any], received: NDArray[Any]) -> str:
    """Why ``received`` is not the expected tensor, in words; empty where it is, within the tolerance of its kind."""
    if received.dtype != expected.dtype or received.shape != expected.shape:
        return f"expected {expected.dtype} {list(expected.shape)}, got {received.dtype} {list(received.shape)}"
    if expected.dtype == np.uint8:
        return _labels_differ(expected, received)
    error, allowed = _rms(received - expected), ABSOLUTE + RELATIVE * _rms(expected)
    # Not "greater than", which no NaN is.
    return "" if error <= allowed else f"its values are {error:.3g} off, expected at most {allowed:.3g}"


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
