"""Every network is what its card says, and nothing else is accepted."""

from typing import Any

import pytest
import torch
from coronanet.export.shipped import PRETRAINED
from coronanet.model.card import Card, Network
from coronanet.model.errors import UsageError
from coronanet.model.networks import build
from coronanet.model.tasks import TaskName


def card_with(task: TaskName, family: str, **parameters: Any) -> Card:
    card = Card.load(PRETRAINED / task / "card.json")
    return card.model_copy(update={"network": Network(family=family, parameters=parameters)})


def weights(card: Card) -> int:
    return sum(parameter.numel() for parameter in build(card).parameters())


def test_the_unet_of_the_talk_has_31_million_weights() -> None:
    assert round(weights(card_with("binary_segmentation", "unet", features=32)) / 1e6, 1) == 31.1


@pytest.mark.parametrize(("variant", "millions"), [("b0", 4.0), ("b1", 6.5), ("b2", 7.7)])
def test_efficientnets_have_the_size_of_the_paper_less_its_thousand_classes(variant: str, millions: float) -> None:
    assert round(weights(card_with("classification", "efficientnet", variant=variant)) / 1e6, 1) == millions


def test_a_segmenter_gives_a_channel_a_class_on_the_grid_of_its_pixels() -> None:
    network = build(card_with("multiclass_segmentation", "unet", features=4)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, 64, 96)).shape == (2, 4, 64, 96)


def test_a_classifier_gives_one_logit_a_slice() -> None:
    network = build(card_with("classification", "efficientnet", variant="b0", width=0.25)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(3, 1, 256, 256)).shape == (3, 1)


@pytest.mark.parametrize(
    ("task", "family", "parameters", "message"),
    [
        ("binary_segmentation", "vgg", {}, "no network family 'vgg': expected one of efficientnet, unet"),
        ("binary_segmentation", "unet", {"depth": 3}, "unet has no parameter 'depth'"),
        ("binary_segmentation", "unet", {"features": "many"}, "'features' must be int, got str"),
        ("classification", "unet", {}, "unet is a segmentation network"),
        ("binary_segmentation", "efficientnet", {}, "efficientnet is a classification network"),
        ("classification", "efficientnet", {"variant": "b9"}, "no efficientnet 'b9'"),
    ],
)
def test_a_network_that_cannot_be_built_says_why(
    task: TaskName, family: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        build(card_with(task, family, **parameters))
