"""EfficientNet-b0, b1 and b2 with one logit, through MONAI.

Tan & Le 2019, arXiv:1905.11946: depth and width scaled together. ``width`` scales the filters once more, for a network
that must stay small.
"""

from monai.networks.nets.efficientnet import EfficientNet
from torch import nn

from ..card import Card
from .parameters import read_parameters, read_variant

# Width and depth coefficients of table 2 of the paper's reference code.
COEFFICIENTS = {"b0": (1.0, 1.0), "b1": (1.0, 1.1), "b2": (1.1, 1.2)}
# Repeats, kernel, stride, expansion, filters in and out, squeeze-and-excitation: table 1 of the paper.
BLOCKS = [
    "r1_k3_s11_e1_i32_o16_se0.25",
    "r2_k3_s22_e6_i16_o24_se0.25",
    "r2_k5_s22_e6_i24_o40_se0.25",
    "r3_k3_s22_e6_i40_o80_se0.25",
    "r3_k5_s11_e6_i80_o112_se0.25",
    "r4_k5_s22_e6_i112_o192_se0.25",
    "r1_k3_s11_e6_i192_o320_se0.25",
]


def build(card: Card) -> nn.Module:
    """Parameters: ``variant`` (``b0``, ``b1``, ``b2``), ``width`` (float), ``dropout`` (float, 0..1, before the logit).

    Raises:
        UsageError: an unknown variant.
    """
    parameters = read_parameters(card, {"variant": "b0", "width": 1.0, "dropout": 0.4})
    variant = read_variant(card, parameters, COEFFICIENTS)
    width, depth = COEFFICIENTS[variant]
    return EfficientNet(
        blocks_args_str=BLOCKS,
        spatial_dims=2,
        in_channels=1,
        num_classes=1,
        width_coefficient=width * float(parameters["width"]),
        depth_coefficient=depth,
        dropout_rate=float(parameters["dropout"]),
        # MONAI pads for this size; any other would shift the features by a pixel.
        image_size=card.geometry.height,
        norm=("batch", {"eps": 1e-3, "momentum": 0.05}),
    )
