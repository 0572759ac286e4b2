"""Weights through the torch reference: the card's own ``Preprocess``, network and ``Decide``, in float32."""

from pathlib import Path

from torch import nn

from ...engines.base import DYNAMIC, TensorSpec
from ...engines.predictor import IMAGE, Predictor
from ...engines.torch_engine import TorchEngine
from ...model.card import Card
from ...model.pixels import Preprocess, build_decide
from ...model.weights import load_network


def open_reference(card: Card, weights: Path) -> Predictor:
    """The predictor of a card and its weights, before any export; one slice at a time.

    Raises:
        UsageError: the weights cannot be read or do not fit the card.
    """
    size = (card.geometry.height, card.geometry.width)
    pixels = TensorSpec("pixels", "float32", (DYNAMIC, 1, *size))
    plane = size if card.spec.is_segmentation else ()
    logits = TensorSpec("logits", "float32", (DYNAMIC, card.spec.channels, *plane))
    probability = TensorSpec("probability", "float32", (DYNAMIC, 1))
    mask = TensorSpec("mask", "uint8", (DYNAMIC, DYNAMIC, DYNAMIC))

    def engine(module: nn.Module, inputs: tuple[TensorSpec, ...], output: TensorSpec) -> TorchEngine:
        return TorchEngine(module, inputs, (output,), max_batch=1)

    return Predictor(
        engine(Preprocess(card), (IMAGE,), pixels),
        engine(load_network(card, weights), (pixels,), logits),
        engine(build_decide(card), (logits, IMAGE), mask)
        if card.spec.is_segmentation
        else engine(build_decide(card), (logits,), probability),
    )
