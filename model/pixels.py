"""The only preprocessing and the only decision there is: two torch modules that training runs and export writes.

Both are plain graphs of clamp, bilinear resize and arithmetic, without antialias (TensorRT and OpenVINO have none), so
ONNX Runtime computes what torch computes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .card import Card


class Preprocess(nn.Module):
    """Hounsfield units to what the network sees.

    In: ``image`` int16 ``[N, H, W]`` in HU. Out: ``pixels`` float32 ``[N, 1, h, w]``: clipped to the card's window,
    scaled to 0..1, resized to the card's geometry, normalised.
    """

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.low = card.window.low_hu
        self.span = card.window.high_hu - card.window.low_hu
        self.size = (card.geometry.height, card.geometry.width)
        self.mean = card.normalisation.mean
        self.std = card.normalisation.std

    def forward(self, image: Tensor) -> Tensor:
        pixels = image.unsqueeze(1).to(torch.float32)
        pixels = (pixels.clamp(self.low, self.low + self.span) - self.low) / self.span
        pixels = F.interpolate(pixels, size=self.size, mode="bilinear", align_corners=False)
        return (pixels - self.mean) / self.std


class DecideProbability(nn.Module):
    """``logits`` float32 ``[N, 1]`` to ``probability`` float32 ``[N, 1]`` in 0..1."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.sigmoid()


class DecideMask(nn.Module):
    """Logits to labels on the input's own grid.

    In: ``logits`` float32 ``[N, C, h, w]``, and ``image`` ``[N, H, W]``, of which only the shape is read. Out: ``mask``
    uint8 ``[N, H, W]``. The probabilities are resized, then decided: one channel against the card's threshold, several
    channels by the largest (the lowest index wins a tie).
    """

    def __init__(self, card: Card) -> None:
        super().__init__()
        self.threshold = card.threshold

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        probability = logits.sigmoid() if self.threshold is not None else _softmax(logits)
        probability = F.interpolate(probability, size=image.shape[-2:], mode="bilinear", align_corners=False)
        if self.threshold is not None:
            return (probability[:, 0] >= self.threshold).to(torch.uint8)
        return probability.argmax(dim=1).to(torch.uint8)


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the channels, in plain arithmetic: ONNX Runtime's own takes twice as long on this axis."""
    powers = (logits - logits.amax(dim=1, keepdim=True)).exp()
    return powers / powers.sum(dim=1, keepdim=True)


def build_decide(card: Card) -> nn.Module:
    """The way back for the card's task: ``DecideMask`` for a segmentation, else ``DecideProbability``."""
    return DecideMask(card) if card.spec.is_segmentation else DecideProbability()
