"""The fast gradient is the same gradient."""

import copy

import pytest
import torch
from coronanet.training.depthwise import speed_up_depthwise
from torch import nn


def chain(kernel: int, stride: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 1),
        nn.Conv2d(16, 16, kernel, stride, kernel // 2, groups=16, bias=False),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False),
    )


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (5, 2), (3, 2)])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_gradients_are_those_of_an_ordinary_convolution(kernel: int, stride: int, autocast: bool) -> None:
    ordinary = chain(kernel, stride)
    fast = copy.deepcopy(ordinary)
    speed_up_depthwise(fast)
    assert type(fast[1]) is not nn.Conv2d
    assert type(fast[2]) is nn.Conv2d, "bfloat16 is the faster way there"
    image = torch.randn(2, 1, 17, 20)
    answers: list[torch.Tensor] = []
    relative, absolute = (0.05, 2e-3) if autocast else (1e-4, 1e-6)
    for network in (ordinary, fast):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            answers.append(network(image))
        answers[-1].float().square().mean().backward()
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)
    for (name, one), other in zip(ordinary.named_parameters(), fast.parameters(), strict=True):
        assert one.grad is not None, name
        assert other.grad is not None, name
        torch.testing.assert_close(other.grad, one.grad, rtol=relative, atol=absolute)


def test_a_copy_learns_with_its_own_weights() -> None:
    network = chain(5, 1)
    speed_up_depthwise(network)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for weight in copied.parameters():
            weight.zero_()
    assert not copied(torch.ones(1, 1, 8, 8)).any()
    assert list(network.state_dict()) == list(chain(5, 1).state_dict())
