"""The reference: the card's own torch modules with the weights upcast to float32."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from ..model.networks import build
from ..model.pixels import Preprocess, build_decide
from ..model.weights import load_network
from .base import EngineBase, Tensors, TensorSpec, check_feeds
from .bundle import WEIGHTS, Bundle, FileRecord, Graph


class TorchEngine(EngineBase):
    """One torch module, on the CPU, in float32."""

    def __init__(
        self, module: nn.Module, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], max_batch: int
    ) -> None:
        super().__init__(inputs, outputs, max_batch)
        # The order in memory in which a CPU convolves several times as fast; the values are the same.
        self._module = module.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(feeds, self.inputs, self.max_batch)
        with torch.inference_mode():
            output = self._module(*(torch.from_numpy(feeds[spec.name]) for spec in self.inputs))
        return {self.outputs[0].name: output.numpy()}


def open_torch(bundle: Bundle, graph: Graph, record: FileRecord) -> TorchEngine:
    """The torch form of a graph of a bundle; ``record`` gives its tensors."""
    return TorchEngine(
        _module(bundle, graph),
        tuple(tensor.spec for tensor in record.inputs),
        tuple(tensor.spec for tensor in record.outputs),
        record.batch.max if record.batch else 1,
    )


def _module(bundle: Bundle, graph: Graph) -> nn.Module:
    match graph:
        case "preprocess":
            return Preprocess(bundle.card)
        case "network":
            return load_network(bundle.card, bundle.path / WEIGHTS, bundle.builder or build)
        case "decide":
            return build_decide(bundle.card)
