"""U-Net++: a U-Net whose skips are small U-Nets themselves.

Zhou et al. 2018, arXiv:1807.10165, figure 1a: node ``(level, step)`` convolves everything at its level that came
before, beside the upsampled node below it. Four poolings as in the paper, without its deep supervision: one head, on
the last node.
"""

import torch
from torch import Tensor, nn

from ..card import Card
from .parameters import read_parameters
from .unet import double_convolution

POOLINGS = 4
#: The nodes beside the encoder's own, as (level, step), each after those that it reads.
ORDER = [(level, step) for step in range(1, POOLINGS + 1) for level in range(POOLINGS + 1 - step)]


class Node(nn.Module):
    """Everything at one level that came before, and the node below, to the next features of that level."""

    def __init__(self, filters: int, step: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * filters, filters, 2, stride=2)
        self.merge = double_convolution((step + 1) * filters, filters)

    def forward(self, before: list[Tensor], below: Tensor) -> Tensor:
        return self.merge(torch.cat([*before, self.up(below)], dim=1))


class UNetPlusPlus(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` to ``logits`` ``[N, channels, h, w]``; h and w are multiples of 16."""

    def __init__(self, channels: int, features: int, dropout: float) -> None:
        super().__init__()
        widths = [features * 2**level for level in range(POOLINGS + 1)]
        self.down = nn.ModuleList(
            double_convolution(narrow, wide) for narrow, wide in zip([1, *widths[:-1]], widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout2d(dropout)
        self.nodes = nn.ModuleList(Node(widths[level], step) for level, step in ORDER)
        self.head = nn.Conv2d(features, channels, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))

    def features(self, pixels: Tensor) -> Tensor:
        """What the head reads: ``[N, features, h, w]``."""
        levels: list[list[Tensor]] = []
        x = pixels
        for block in self.down:
            x = block(x)
            levels.append([x])
            x = self.dropout(self.pool(x))
        for (level, step), node in zip(ORDER, self.nodes, strict=True):
            levels[level].append(node(levels[level], levels[level + 1][step - 1]))
        return levels[0][-1]


def build(card: Card) -> nn.Module:
    """Parameters: ``features`` (int, filters at the top; 32 is the paper's), ``dropout`` (float, 0..1)."""
    parameters = read_parameters(card, {"features": 32, "dropout": 0.1})
    return UNetPlusPlus(card.spec.channels, int(parameters["features"]), float(parameters["dropout"]))
