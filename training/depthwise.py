"""Depthwise convolutions whose gradient is computed in float32, which on a CPU is the faster way.

oneDNN computes the gradients of a depthwise convolution slowly in bfloat16: of a 5 x 5 kernel's weights in two to seven
times the time of float32, of the input under a stride of two in two to seventy (torch 2.13.0, AVX-512 BF16, two cores,
8 views at 384 x 384). In an EfficientNet these are a third of a training step.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Convolution(torch.autograd.Function):
    """A depthwise convolution forwards in whatever precision is asked for, backwards in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        stride, padding = [ctx.stride] * 2, [ctx.padding] * 2
        of_input, of_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(), x.float(), weight.float(), None, stride, padding, [1, 1], False, [0, 0], weight.shape[0],
            [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False],
        )  # fmt: skip
        return None if of_input is None else of_input.to(x.dtype), of_weight, None, None


class _Depthwise(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return _Convolution.apply(input, self.weight, self.stride[0], self.padding[0])


def speed_up_depthwise(network: nn.Module) -> None:
    """Let the depthwise convolutions of a network in training learn through float32 gradients where that is faster."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and _is_slow(module):
            # Not another module in its place: its weights keep their names, and whoever shares it shares it still.
            module.__class__ = _Depthwise


def _is_slow(layer: nn.Conv2d) -> bool:
    is_depthwise = layer.groups == layer.in_channels == layer.out_channels > 1
    is_square = layer.kernel_size[0] == layer.kernel_size[1] and layer.stride[0] == layer.stride[1]
    is_plain = layer.bias is None and layer.padding_mode == "zeros" and layer.dilation == (1, 1)
    return is_depthwise and is_square and is_plain and (layer.kernel_size[0] > 3 or layer.stride[0] > 1)
