"""A torch network rewritten for inference on a GPU: fewer passes over memory, the same function.

Batch normalisation goes into the convolution before it, and a ReLU (or ReLU6) into the convolution's own kernel, with
the bias: at the sizes of CT each pass over the activations that is spared counts more than the arithmetic.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from torch.nn.utils.fusion import fuse_conv_bn_eval

#: cuDNN's convolution that adds the bias and clips below zero before it writes.
convolution_relu: Any = torch.ops.aten.cudnn_convolution_relu


class ConvolutionReLU(nn.Module):
    """A convolution with its bias and a ReLU in one kernel, clipped at ``most`` where that is given."""

    def __init__(self, convolution: nn.Conv2d, most: float | None) -> None:
        super().__init__()
        assert convolution.bias is not None
        self.weight, self.bias, self.most = convolution.weight, convolution.bias, most
        self._how: Any = (convolution.stride, convolution.padding, convolution.dilation, convolution.groups)

    def forward(self, pixels: Tensor) -> Tensor:
        answer = convolution_relu(pixels, self.weight, self.bias, *self._how)
        return answer if self.most is None else answer.clamp_(max=self.most)


def rewrite(network: nn.Module, *, activations: bool) -> nn.Module:
    """The same function in evaluation mode; what is given is used up.

    What cannot be traced, as a mere list of parts cannot, keeps its own code, and its parts are rewritten one by one.

    Args:
        activations: whether to put ReLUs into the convolutions too, which runs on a GPU alone.
    """
    try:
        traced = fx.symbolic_trace(network.eval())
    except (TraceError, NotImplementedError):
        for name, part in network.named_children():
            setattr(network, name, rewrite(part, activations=activations))
        return network
    for node, convolution, normalisation in _behind_convolutions(traced, nn.BatchNorm2d):
        _replace(traced, node, fuse_conv_bn_eval(convolution, normalisation))
    for node, convolution, activation in _behind_convolutions(traced, nn.ReLU, nn.ReLU6) if activations else ():
        # cuDNN has no such kernel for depthwise convolutions that is fast.
        if convolution.groups == 1 and convolution.bias is not None:
            most = 6.0 if isinstance(activation, nn.ReLU6) else None
            _replace(traced, node, ConvolutionReLU(convolution, most))
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _behind_convolutions(traced: fx.GraphModule, *kinds: type[nn.Module]) -> Iterator[tuple[fx.Node, nn.Conv2d, Any]]:
    """Every module of these kinds that alone reads what a convolution gives: its node, the convolution and itself."""
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(behind := traced.get_submodule(str(node.target)), kinds):
            continue
        (source,) = node.all_input_nodes
        if source.op == "call_module" and len(source.users) == 1:
            convolution = traced.get_submodule(str(source.target))
            if isinstance(convolution, nn.Conv2d):
                yield node, convolution, behind


def _replace(traced: fx.GraphModule, node: fx.Node, both: nn.Module) -> None:
    """Put one module in the place of a convolution and of the module behind it, which ``node`` calls."""
    (source,) = node.all_input_nodes
    traced.set_submodule(str(source.target), both)
    node.replace_all_uses_with(source)
    traced.graph.erase_node(node)
