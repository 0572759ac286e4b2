"""ResNet-18, -34 and -50 with one logit, through MONAI.

He et al. 2016, arXiv:1512.03385, with projection shortcuts (option B of the paper). ``Backbone`` is also what the
feature pyramid stands on.
"""

from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

from ..card import Card
from .parameters import read_parameters, read_variant

#: Kind of block and blocks a stage: table 1 of the paper.
VARIANTS: dict[str, tuple[type[ResNetBlock | ResNetBottleneck], list[int]]] = {
    "resnet18": (ResNetBlock, [2, 2, 2, 2]),
    "resnet34": (ResNetBlock, [3, 4, 6, 3]),
    "resnet50": (ResNetBottleneck, [3, 4, 6, 3]),
}
#: Filters of the first stage; they double at each that follows.
FILTERS = 64


class Backbone(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` to the features of four stages, at 1/4, 1/8, 1/16 and 1/32 of the resolution.

    Attributes:
        filters: the number of channels of each stage's features.
    """

    def __init__(self, variant: str, width: float) -> None:
        super().__init__()
        block, repeats = VARIANTS[variant]
        inner = [max(1, round(FILTERS * width * 2**stage)) for stage in range(len(repeats))]
        network = ResNet(
            block=block,
            layers=repeats,
            block_inplanes=inner,
            spatial_dims=2,
            n_input_channels=1,
            conv1_t_size=7,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )
        self.stem = nn.Sequential(network.conv1, network.bn1, network.act, network.maxpool)
        self.stages = nn.ModuleList([network.layer1, network.layer2, network.layer3, network.layer4])
        self.filters = [block.expansion * filters for filters in inner]

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x = self.stem(pixels)
        features: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class ResNetClassifier(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` to ``logits`` ``[N, 1]``; h and w are multiples of 32."""

    def __init__(self, variant: str, width: float, dropout: float) -> None:
        super().__init__()
        self.backbone = Backbone(variant, width)
        self.dropout = nn.Dropout(dropout)
        self.logit = nn.Linear(self.backbone.filters[-1], 1)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.backbone(pixels)[-1].mean(dim=(2, 3))
        return self.logit(self.dropout(features))


def build(card: Card) -> nn.Module:
    """Parameters: ``variant`` (``resnet18``, ``resnet34``, ``resnet50``), ``width`` (float, scales every stage's
    filters), ``dropout`` (float, 0..1, before the logit).

    Raises:
        UsageError: an unknown variant.
    """
    parameters = read_parameters(card, {"variant": "resnet18", "width": 1.0, "dropout": 0.2})
    variant = read_variant(card, parameters, VARIANTS)
    return ResNetClassifier(variant, float(parameters["width"]), float(parameters["dropout"]))
