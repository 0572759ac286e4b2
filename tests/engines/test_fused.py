"""A network rewritten for the GPU is the same function with fewer passes over memory."""

from pathlib import Path

import pytest
import torch
from coronanet.engines import fused
from coronanet.engines.fused import ConvolutionReLU, rewrite
from coronanet.export.shipped import PRETRAINED
from coronanet.model.card import Card
from coronanet.model.networks import build
from coronanet.model.tasks import TASK_NAMES
from torch import nn


@pytest.fixture
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN's kernel as its definition says it, where no GPU is."""

    def convolve(pixels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *how: object) -> torch.Tensor:
        return torch.relu(torch.conv2d(pixels, weight, bias, *how))  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(fused, "convolution_relu", convolve)


def kinds(network: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(part, kind) for part in network.modules())


@pytest.mark.usefixtures("on_the_cpu")
@pytest.mark.parametrize("source", [PRETRAINED / name for name in TASK_NAMES], ids=lambda path: path.name)
def test_every_network_that_ships_is_the_same_function_without_normalisations(source: Path) -> None:
    torch.manual_seed(0)
    network = build(Card.load(source / "card.json")).eval()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = torch.randn(part.num_features) * 0.1
            part.running_var = torch.rand(part.num_features) + 0.5
    pixels = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        expected = network(pixels)
        rewritten = rewrite(network, activations=True)
        found = rewritten(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert kinds(rewritten, nn.BatchNorm2d) == 0
    assert kinds(rewritten, ConvolutionReLU) > 10


@pytest.mark.usefixtures("on_the_cpu")
def test_relu6_still_clips_and_a_value_that_is_read_twice_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
            self.clip, self.activate = nn.ReLU6(), nn.ReLU()

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            once = self.clip(self.first(pixels))
            twice = self.second(once)
            return self.activate(twice) + twice

    torch.manual_seed(0)
    network = Twice().eval()
    pixels = 50 * torch.randn(1, 1, 16, 16)
    with torch.inference_mode():
        expected = network(pixels)
        rewritten = rewrite(network, activations=True)
        torch.testing.assert_close(rewritten(pixels), expected)
    assert kinds(rewritten, ConvolutionReLU) == 1


def test_depthwise_convolutions_keep_their_own_kernel() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), nn.ReLU6())
    rewritten = rewrite(network, activations=True)
    assert (kinds(rewritten, nn.BatchNorm2d), kinds(rewritten, ConvolutionReLU)) == (0, 0)
