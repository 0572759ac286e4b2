"""FCN-8s, the baseline that the U-Net came from.

Long et al. 2015, arXiv:1411.4038: VGG-16's convolutions, its three linear layers as convolutions, a score layer at
1/8, 1/16 and 1/32 of the resolution, fused from coarse to fine by learnt upsampling that begins as bilinear. Three
things differ, since nothing here starts from ImageNet: ``features`` filters at the top instead of 64, batch
normalisation, and padding by half a kernel in place of 100 pixels and a crop.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..card import Card
from .parameters import read_parameters

#: Convolutions before each of the five poolings, and their filters in multiples of the first: VGG-16.
STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))
#: The poolings whose features are scored beside the last: 1/8 and 1/16.
SCORED = (2, 3)
#: Filters of the two convolutions that were VGG's linear layers, in multiples of the first.
LINEAR = 64


def _convolution(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _stage(in_channels: int, out_channels: int, repeats: int) -> nn.Sequential:
    convolutions = [
        _convolution(in_channels if index == 0 else out_channels, out_channels, 3) for index in range(repeats)
    ]
    return nn.Sequential(*convolutions, nn.MaxPool2d(2))


def _upsample(channels: int) -> nn.ConvTranspose2d:
    """Learnt upsampling by two that begins as bilinear interpolation of each channel."""
    layer = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False)
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        layer.weight.copy_(torch.einsum("oi,h,w->oihw", torch.eye(channels), tent, tent))
    return layer


class FCN(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` to ``logits`` ``[N, channels, h, w]``; h and w are multiples of 32."""

    def __init__(self, channels: int, features: int, dropout: float) -> None:
        super().__init__()
        widths = [features * multiple for _, multiple in STAGES]
        self.stages = nn.ModuleList(
            _stage(narrow, wide, repeats)
            for narrow, wide, (repeats, _) in zip([1, *widths[:-1]], widths, STAGES, strict=True)
        )
        inner = features * LINEAR
        self.linear = nn.Sequential(
            _convolution(widths[-1], inner, 7),
            nn.Dropout2d(dropout),
            _convolution(inner, inner, 1),
            nn.Dropout2d(dropout),
            nn.Conv2d(inner, channels, 1),
        )
        self.score = nn.ModuleList(nn.Conv2d(widths[stage], channels, 1) for stage in SCORED)
        self.upsample = nn.ModuleList(_upsample(channels) for _ in SCORED)

    def forward(self, pixels: Tensor) -> Tensor:
        x = pixels
        taps: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in SCORED:
                taps.append(x)
        scores = self.linear(x)
        for score, upsample in zip(reversed(self.score), self.upsample, strict=True):
            scores = upsample(scores) + score(taps.pop())
        # The paper's last upsampling is not learnt either.
        return F.interpolate(scores, scale_factor=8.0, mode="bilinear", align_corners=False)


def build(card: Card) -> nn.Module:
    """Parameters: ``features`` (int, filters at the top; 64 is the paper's), ``dropout`` (float, 0..1)."""
    parameters = read_parameters(card, {"features": 32, "dropout": 0.5})
    return FCN(card.spec.channels, int(parameters["features"]), float(parameters["dropout"]))
