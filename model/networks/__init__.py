"""The networks, one file a family; ``build`` is the only switch between them."""

from collections.abc import Callable

from torch import nn

from ..card import Card
from ..errors import UsageError
from . import efficientnet, efficientnet_lite, unet

FAMILIES: dict[str, Callable[[Card], nn.Module]] = {
    "efficientnet": efficientnet.build,
    "efficientnet_lite": efficientnet_lite.build,
    "unet": unet.build,
}


def build(card: Card) -> nn.Module:
    """The network that a card describes, with fresh weights: ``pixels`` ``[N, 1, h, w]`` to ``logits``.

    Raises:
        UsageError: no such family, or the family does not take these parameters or this task.
    """
    family = FAMILIES.get(card.network.family)
    if family is None:
        raise UsageError(f"no network family '{card.network.family}': expected one of {', '.join(sorted(FAMILIES))}")
    return family(card)
