"""EfficientNet-Lite0, and a light decoder over it: the encoder-decoder that ships.

Tan & Le 2019, arXiv:1905.11946, in Google's Lite form: no squeeze-and-excitation and ReLU6, so every operator is one
that all runtimes run fast and in low precision. The decoder is a U-Net's (Ronneberger et al. 2015, arXiv:1505.04597):
at each scale one convolution over the upsampled features beside the encoder's. It stops at half resolution, and the
last step is sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..card import Card
from ..errors import UsageError
from .parameters import read_parameters

# Repeats, kernel, stride, expansion, filters out: table 1 of the paper; Lite0 keeps the stem's 32 filters.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32
#: The stages whose features leave the encoder, at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution, and their widths.
TAPS = {0: 16, 1: 24, 2: 40, 4: 112, 6: 320}
HEAD = 1280


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3),
        nn.ReLU6(inplace=True),
    )


class Block(nn.Module):
    """Inverted residual: expand, convolve each channel, project."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.expand = _convolution(in_channels, inner, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _convolution(inner, inner, kernel, stride, groups=inner)
        self.project = nn.Sequential(
            nn.Conv2d(inner, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels, eps=1e-3)
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class Encoder(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` to features at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(1, STEM, 3, 2)
        stages: list[nn.Sequential] = []
        channels = STEM
        for repeats, kernel, stride, expansion, filters in STAGES:
            blocks: list[Block] = []
            for index in range(repeats):
                blocks.append(Block(channels, filters, kernel, stride if index == 0 else 1, expansion))
                channels = filters
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x = self.stem(pixels)
        taps: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in TAPS:
                taps.append(x)
        return taps


class LiteUNet(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` to ``logits`` ``[N, channels, h, w]``; h and w are multiples of 32.

    With four ``turns`` the trained network reads a slice in all four quarter turns and averages what it says, so that
    turning the (square) input turns the answer and changes nothing else. It costs four passes.
    """

    def __init__(self, channels: int, decoder: int, dropout: float, turns: int) -> None:
        super().__init__()
        self.turns = turns
        self.encoder = Encoder()
        widths = [decoder, decoder * 3 // 2, decoder * 2, decoder * 3]
        skips = list(TAPS.values())
        inputs = [*widths[1:], skips[-1]]
        self.merge = nn.ModuleList(
            _convolution(deep + skip, wide, 3) for deep, skip, wide in zip(inputs, skips, widths, strict=False)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.head = nn.Sequential(nn.Conv2d(decoder, channels * 4, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, pixels: Tensor) -> Tensor:
        if self.training or self.turns == 1:
            return self.head(self.features(pixels))
        quarters = range(0, 4, 4 // self.turns)
        views = torch.cat([torch.rot90(pixels, quarter, (2, 3)) for quarter in quarters])
        # Not ``chunk``, which torch cannot export for a batch of any size.
        answers = self.head(self.features(views)).unflatten(0, (self.turns, -1))
        back = [torch.rot90(answer, -quarter, (2, 3)) for quarter, answer in zip(quarters, answers, strict=True)]
        return torch.stack(back).mean(0)

    def features(self, pixels: Tensor) -> Tensor:
        """What the head reads: ``[N, decoder, h / 2, w / 2]``."""
        *skips, x = self.encoder(pixels)
        x = self.dropout(x)
        for merge in reversed(self.merge):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = merge(torch.cat([x, skips.pop()], dim=1))
        return x


class LiteClassifier(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` to ``logits`` ``[N, 1]``."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.head = _convolution(TAPS[6], HEAD, 1)
        self.dropout = nn.Dropout(dropout)
        self.logit = nn.Linear(HEAD, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.head(self.encoder(pixels)[-1])
        return self.logit(self.dropout(features.mean(dim=(2, 3))))


def build(card: Card) -> nn.Module:
    """Parameters: ``dropout`` (float, 0..1); for a segmentation also ``decoder`` (int, filters at half resolution) and
    ``turns`` (1, 2 or 4 quarter turns that are averaged).

    Raises:
        UsageError: another number of turns, or four turns of a view that is not square.
    """
    if card.spec.is_segmentation:
        parameters = read_parameters(card, {"decoder": 32, "dropout": 0.1, "turns": 1})
        turns = int(parameters["turns"])
        if turns not in (1, 2, 4):
            raise UsageError(f"efficientnet_lite parameter 'turns' must be 1, 2 or 4, got {turns}")
        if turns == 4 and card.geometry.height != card.geometry.width:
            raise UsageError(f"four turns need a square view, got {card.geometry.height} x {card.geometry.width}")
        return LiteUNet(card.spec.channels, int(parameters["decoder"]), float(parameters["dropout"]), turns)
    parameters = read_parameters(card, {"dropout": 0.2})
    return LiteClassifier(float(parameters["dropout"]))
