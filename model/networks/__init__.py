"""The networks, one file a family; ``build`` is the only switch between them."""

from collections.abc import Callable, Mapping

from torch import nn

from ..card import Card
from ..errors import UsageError
from . import efficientnet, efficientnet_lite, fcn, fpn, resnet, unet, unetplusplus

Builder = Callable[[Card], nn.Module]

#: Families whose networks give one logit a slice, and families whose networks give logits for every pixel.
CLASSIFIERS: Mapping[str, Builder] = {
    "efficientnet": efficientnet.build,
    "efficientnet_lite": efficientnet_lite.build,
    "fpn": fpn.build,
    "resnet": resnet.build,
}
SEGMENTERS: Mapping[str, Builder] = {
    "efficientnet_lite": efficientnet_lite.build,
    "fcn": fcn.build,
    "unet": unet.build,
    "unetplusplus": unetplusplus.build,
}


def build(card: Card) -> nn.Module:
    """The network that a card describes, with fresh weights: ``pixels`` ``[N, 1, h, w]`` to ``logits``.

    Raises:
        UsageError: no such family, a family for the other kind of task, parameters that the family does not take, or
            a network of the user's own.
    """
    family = card.network.family
    if card.network.is_own:
        raise UsageError(
            "the card's network is the user's own, whose code no bundle carries: torch runs it in `coronanet export` "
            "and `coronanet verify`, with --network package.module:function"
        )
    fitting, others = (SEGMENTERS, CLASSIFIERS) if card.spec.is_segmentation else (CLASSIFIERS, SEGMENTERS)
    if family in fitting:
        return fitting[family](card)
    expected = f"expected one of {', '.join(sorted(fitting))}"
    if family in others:
        kind = "classification" if card.spec.is_segmentation else "segmentation"
        raise UsageError(f"{family} is a {kind} network, the card's task is {card.task}: {expected}")
    raise UsageError(f"no network family '{family}' for {card.task}: {expected}")
