"""From an image to a decision: the single path for validation, the gates, the command line and the benchmarks."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..model.tasks import TASKS, TaskName
from .base import DYNAMIC, Engine, EngineBase, Tensors, TensorSpec, check_feeds
from .bundle import Bundle, Precision
from .open import Backend, is_installed, open_engine

IMAGE = TensorSpec("image", "int16", (DYNAMIC, DYNAMIC, DYNAMIC))


@dataclass(frozen=True)
class Choice:
    """How to run a network: on which backend, in which precision, with how many threads an inference."""

    backend: Backend = "onnxruntime"
    precision: Precision = "fp32"
    threads: int | None = None

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}"


REFERENCE = Choice("torch", "fp32")


def reference_of(bundle: Bundle) -> Choice:
    """What the forms of a bundle are compared with here.

    Torch; where it is not installed, or the network's code is not at hand, ONNX Runtime in float32, whose own parity
    with torch stands in the manifest.
    """
    return REFERENCE if bundle.has_code and is_installed("torch") else Choice("onnxruntime", "fp32")


class Predictor:
    """The three graphs of one bundle, composed: int16 HU ``[N, H, W]`` to a decision.

    ``preprocess`` and ``decide`` run on ONNX Runtime, or on torch where the network does or ``edge`` says so.
    """

    def __init__(self, preprocess: Engine, network: Engine, decide: Engine) -> None:
        self.preprocess = preprocess
        self.network = network
        self.decide = decide

    @classmethod
    def open(cls, bundle: Bundle, choice: Choice, *, edge: Backend | None = None, unproved: bool = False) -> Self:
        """The chain of a bundle; ``unproved`` as in ``open_engine``."""
        edge = edge or ("torch" if choice.backend == "torch" else "onnxruntime")
        with ExitStack() as stack:
            preprocess, decide = (
                stack.enter_context(open_engine(bundle, graph=graph, backend=edge, threads=choice.threads))
                for graph in ("preprocess", "decide")
            )
            network = stack.enter_context(
                open_engine(
                    bundle,
                    backend=choice.backend,
                    precision=choice.precision,
                    threads=choice.threads,
                    unproved=unproved,
                )
            )
            stack.pop_all()
        return cls(preprocess, network, decide)

    def logits(self, image: NDArray[np.int16]) -> NDArray[np.float32]:
        """``image`` int16 ``[N, H, W]`` to the network's float32 logits."""
        return self.network.infer(self.preprocess.infer({"image": image}))["logits"]

    def decision(self, logits: NDArray[np.float32], image: NDArray[np.int16]) -> NDArray[Any]:
        """Logits to a probability ``[N, 1]`` or a mask ``[N, H, W]`` on the grid of ``image``."""
        available: dict[str, NDArray[Any]] = {"logits": logits, "image": image}
        feeds = {spec.name: available[spec.name] for spec in self.decide.inputs}
        return self.decide.infer(feeds)[self.decide.outputs[0].name]

    def predict(self, image: NDArray[np.int16]) -> NDArray[Any]:
        """``image`` int16 ``[N, H, W]`` in HU to the decision: probability ``[N, 1]`` or mask ``[N, H, W]``.

        Raises:
            UsageError: the image has another dtype or rank, or more slices than ``max_batch``.
        """
        return self.decision(self.logits(image), image)

    @property
    def max_batch(self) -> int:
        return self.network.max_batch

    def close(self) -> None:
        for engine in (self.preprocess, self.network, self.decide):
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


class LocalEnsemble(EngineBase):
    """The ensemble ``coronanet`` in this process: the same input and outputs as the served one.

    In: ``image`` int16 ``[N, H, W]``. Out: one tensor a bundle, named as ``model.tasks`` says:
    ``infected_probability`` float32 ``[N, 1]``; ``lesion_mask``, ``lesion_types``, ``lung_mask`` uint8 ``[N, H, W]``.
    Bundles with one preprocessing recipe share that step.
    """

    def __init__(self, bundles: Mapping[TaskName, Bundle], choices: Mapping[TaskName, Choice]) -> None:
        with ExitStack() as stack:
            self._predictors: dict[TaskName, Predictor] = {
                name: stack.enter_context(Predictor.open(bundle, choices[name])) for name, bundle in bundles.items()
            }
            stack.pop_all()
        self._recipes = {
            name: (bundle.card.recipe, choices[name].backend == "torch") for name, bundle in bundles.items()
        }
        outputs = tuple(ensemble_output(name) for name in bundles)
        super().__init__((IMAGE,), outputs, min(predictor.max_batch for predictor in self._predictors.values()))

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(feeds, self.inputs, self.max_batch)
        image = feeds["image"]
        shared: dict[tuple[str, bool], dict[str, NDArray[Any]]] = {}
        answer: dict[str, NDArray[Any]] = {}
        for name, predictor in self._predictors.items():
            recipe = self._recipes[name]
            if recipe not in shared:
                shared[recipe] = predictor.preprocess.infer(feeds)
            logits = predictor.network.infer(shared[recipe])["logits"]
            answer[TASKS[name].output] = predictor.decision(logits, image)
        return answer

    def close(self) -> None:
        for predictor in self._predictors.values():
            predictor.close()


def ensemble_output(name: TaskName) -> TensorSpec:
    """The tensor that a task adds to the ensemble's answer."""
    task = TASKS[name]
    if task.is_segmentation:
        return TensorSpec(task.output, "uint8", (DYNAMIC, DYNAMIC, DYNAMIC))
    return TensorSpec(task.output, "float32", (DYNAMIC, 1))
