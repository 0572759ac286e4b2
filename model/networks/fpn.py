"""A feature pyramid that classifies: a ResNet's stages, joined from coarse to fine and fused into one logit.

Lin et al. 2017, arXiv:1612.03144: lateral 1 x 1 convolutions, nearest upsampling by two and addition, one 3 x 3
convolution at each scale. The paper detects objects at each scale; here every scale is averaged over the image, and one
linear layer weighs them all, so that a small opacity counts at the scale at which it shows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..card import Card
from .parameters import read_parameters, read_variant
from .resnet import VARIANTS, Backbone


class FeaturePyramid(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` to ``logits`` ``[N, 1]``; h and w are multiples of 32."""

    def __init__(self, variant: str, width: float, filters: int, dropout: float) -> None:
        super().__init__()
        self.backbone = Backbone(variant, width)
        self.lateral = nn.ModuleList(nn.Conv2d(stage, filters, 1) for stage in self.backbone.filters)
        self.smooth = nn.ModuleList(_smooth(filters) for _ in self.backbone.filters)
        self.dropout = nn.Dropout(dropout)
        self.logit = nn.Linear(len(self.smooth) * filters, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        fused = [smooth(x).mean(dim=(2, 3)) for smooth, x in zip(self.smooth, self.pyramid(pixels), strict=True)]
        return self.logit(self.dropout(torch.cat(fused, dim=1)))

    def pyramid(self, pixels: Tensor) -> list[Tensor]:
        """Features ``[N, filters, …]`` at 1/4, 1/8, 1/16 and 1/32, each with what the coarser ones know."""
        *finer, coarsest = [lateral(x) for lateral, x in zip(self.lateral, self.backbone(pixels), strict=True)]
        levels: list[Tensor] = [coarsest]
        for lateral in reversed(finer):
            levels.insert(0, lateral + F.interpolate(levels[0], scale_factor=2.0, mode="nearest"))
        return levels


def _smooth(filters: int) -> nn.Sequential:
    # The paper has no activation here, since a detector's head follows; before an average there must be one.
    return nn.Sequential(
        nn.Conv2d(filters, filters, 3, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU(inplace=True)
    )


def build(card: Card) -> nn.Module:
    """Parameters: ``variant`` (``resnet18``, ``resnet34``, ``resnet50``: what the pyramid stands on), ``width`` (float,
    scales the ResNet's filters), ``filters`` (int, of the pyramid), ``dropout`` (float, 0..1, before the logit).

    Raises:
        UsageError: an unknown variant.
    """
    parameters = read_parameters(card, {"variant": "resnet18", "width": 1.0, "filters": 256, "dropout": 0.2})
    return FeaturePyramid(
        read_variant(card, parameters, VARIANTS),
        float(parameters["width"]),
        int(parameters["filters"]),
        float(parameters["dropout"]),
    )
