"""The Corona-Net U-Net: five poolings, learnt upsampling, dropout after each pooling.

Ronneberger et al. 2015, arXiv:1505.04597, in the shape of the Corona-Net talk (Choi 2020): one input channel and
``features`` filters at the top that double at each of five poolings; 31 M weights at 32 features.
"""

import torch
from torch import Tensor, nn

from ..card import Card
from .parameters import read_parameters

POOLINGS = 5


def double_convolution(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice a 3 x 3 convolution with batch normalisation and ReLU; the size stays."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` to ``logits`` ``[N, channels, h, w]``; h and w are multiples of 32."""

    def __init__(self, channels: int, features: int, dropout: float) -> None:
        super().__init__()
        widths = [features * 2**level for level in range(POOLINGS + 1)]
        self.down = nn.ModuleList(
            double_convolution(narrow, wide) for narrow, wide in zip([1, *widths[:-2]], widths[:-1], strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(dropout)
        self.bottom = double_convolution(widths[-2], widths[-1])
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(wide, narrow, 2, stride=2)
            for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.merge = nn.ModuleList(double_convolution(2 * narrow, narrow) for narrow in widths[-2::-1])
        self.head = nn.Conv2d(features, channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """What the head reads: ``[N, features, h, w]``."""
        skips: list[Tensor] = []
        x = pixels
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = self.dropout(self.pool(x))
        x = self.bottom(x)
        for upsample, block in zip(self.up, self.merge, strict=True):
            x = block(torch.cat([upsample(x), skips.pop()], dim=1))
        return x


def build(card: Card) -> nn.Module:
    """Parameters: ``features`` (int, filters at the top), ``dropout`` (float, 0..1)."""
    parameters = read_parameters(card, {"features": 32, "dropout": 0.1})
    return UNet(card.spec.channels, int(parameters["features"]), float(parameters["dropout"]))
