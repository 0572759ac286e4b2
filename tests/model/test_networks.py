"""Every network is what its card says, and nothing else is accepted."""

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from coronanet.export.shipped import PRETRAINED
from coronanet.model.card import Card, Network
from coronanet.model.errors import UsageError
from coronanet.model.networks import build
from coronanet.model.networks.fcn import FCN
from coronanet.model.networks.fpn import FeaturePyramid
from coronanet.model.networks.unetplusplus import ORDER, UNetPlusPlus
from coronanet.model.tasks import TaskName
from torch import nn


def card_with(task: TaskName, family: str, **parameters: Any) -> Card:
    card = Card.load(PRETRAINED / task / "card.json")
    return card.model_copy(update={"network": Network(family=family, parameters=parameters)})


def weights(card: Card) -> int:
    return sum(parameter.numel() for parameter in build(card).parameters())


@pytest.mark.parametrize(
    ("family", "features", "millions"),
    [
        ("unet", 32, 31.1),
        # The paper's table says 9.04.
        ("unetplusplus", 32, 9.05),
        # VGG-16's 138.4 less its thousand classes.
        ("fcn", 64, 134.3),
    ],
)
def test_segmenters_have_the_size_of_their_papers(family: str, features: int, millions: float) -> None:
    assert weights(card_with("binary_segmentation", family, features=features)) / 1e6 == pytest.approx(
        millions, abs=0.05
    )


@pytest.mark.parametrize(
    ("family", "variant", "millions"),
    [
        ("efficientnet", "b0", 4.0),
        ("efficientnet", "b1", 6.5),
        ("efficientnet", "b2", 7.7),
        ("resnet", "resnet18", 11.2),
        ("resnet", "resnet34", 21.3),
        ("resnet", "resnet50", 23.5),
    ],
)
def test_classifiers_have_the_size_of_their_papers_less_a_thousand_classes(
    family: str, variant: str, millions: float
) -> None:
    assert round(weights(card_with("classification", family, variant=variant)) / 1e6, 1) == millions


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("efficientnet_lite", {"decoder": 8}),
        ("fcn", {"features": 4}),
        ("unet", {"features": 4}),
        ("unetplusplus", {"features": 4}),
    ],
)
def test_a_segmenter_gives_a_channel_a_class_on_the_grid_of_its_pixels(family: str, parameters: dict[str, Any]) -> None:
    network = build(card_with("multiclass_segmentation", family, **parameters)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 1, 64, 96)).shape == (2, 4, 64, 96)


@pytest.mark.parametrize(
    ("family", "parameters"),
    [
        ("efficientnet", {"variant": "b0", "width": 0.25}),
        ("efficientnet_lite", {}),
        ("fpn", {"width": 0.25, "filters": 8}),
        ("resnet", {"width": 0.25}),
    ],
)
def test_a_classifier_gives_one_logit_a_slice(family: str, parameters: dict[str, Any]) -> None:
    network = build(card_with("classification", family, **parameters)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(3, 1, 64, 96)).shape == (3, 1)


def test_four_turns_make_a_network_that_turns_with_its_input() -> None:
    torch.manual_seed(0)
    network = build(card_with("multiclass_segmentation", "efficientnet_lite", decoder=8, turns=4)).eval()
    pixels = torch.rand(2, 1, 64, 64)
    with torch.inference_mode():
        upright, turned = network(pixels), network(torch.rot90(pixels, 1, (2, 3)))
    assert upright.std() > 1e-3
    torch.testing.assert_close(turned, torch.rot90(upright, 1, (2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ["resnet18", "resnet50"])
def test_a_pyramid_fuses_a_resnets_four_scales(variant: str) -> None:
    network = build(card_with("classification", "fpn", variant=variant, width=0.25, filters=8)).eval()
    assert isinstance(network, FeaturePyramid)
    with torch.inference_mode():
        levels = network.pyramid(torch.rand(1, 1, 64, 96))
    assert [level.shape for level in levels] == [(1, 8, 16, 24), (1, 8, 8, 12), (1, 8, 4, 6), (1, 8, 2, 3)]


def test_what_the_coarsest_scale_sees_reaches_every_level_of_a_pyramid() -> None:
    network = build(card_with("classification", "fpn", width=0.25, filters=8)).eval()
    assert isinstance(network, FeaturePyramid)
    pixels, coarsest = torch.rand(1, 1, 64, 64), network.lateral[-1]
    assert isinstance(coarsest, nn.Conv2d)
    assert coarsest.bias is not None
    with torch.inference_mode():
        before = network.pyramid(pixels)
        coarsest.bias.add_(1.0)
        after = network.pyramid(pixels)
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other - one, torch.ones_like(one))


def test_an_fcn_begins_by_upsampling_bilinearly() -> None:
    network = build(card_with("multiclass_segmentation", "fcn", features=2))
    assert isinstance(network, FCN)
    scores = torch.rand(1, 4, 6, 7)
    bilinear = F.interpolate(scores, scale_factor=2.0, mode="bilinear", align_corners=False)
    with torch.inference_mode():
        learnt = network.upsample[0](scores)
    # At the border the paper's layer sees zeros, where interpolation repeats the edge.
    torch.testing.assert_close(learnt[..., 1:-1, 1:-1], bilinear[..., 1:-1, 1:-1])


def test_every_earlier_node_of_a_level_reaches_the_last_one_of_a_nested_unet() -> None:
    network = build(card_with("binary_segmentation", "unetplusplus", features=2)).eval()
    assert isinstance(network, UNetPlusPlus)
    top = [node for (level, _), node in zip(ORDER, network.nodes, strict=True) if level == 0]
    seen: list[int] = []
    for node in top:
        node.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    with torch.inference_mode():
        network(torch.zeros(1, 1, 32, 32))
    assert seen == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("task", "family", "parameters", "message"),
    [
        (
            "binary_segmentation",
            "vgg",
            {},
            "no network family 'vgg' for binary_segmentation: "
            "expected one of efficientnet_lite, fcn, unet, unetplusplus",
        ),
        (
            "binary_segmentation",
            "unet",
            {"depth": 3},
            "unet has no parameter 'depth': expected one of dropout, features",
        ),
        ("binary_segmentation", "unet", {"features": "many"}, "unet parameter 'features' must be int, got str"),
        ("binary_segmentation", "fcn", {"features": 0}, "fcn parameter 'features' must be above 0, got 0"),
        (
            "classification",
            "resnet",
            {"dropout": 1},
            "resnet parameter 'dropout' must be at least 0 and below 1, got 1",
        ),
        (
            "classification",
            "unet",
            {},
            "unet is a segmentation network, the card's task is classification: "
            "expected one of efficientnet, efficientnet_lite, fpn, resnet",
        ),
        (
            "lung_segmentation",
            "resnet",
            {},
            "resnet is a classification network, the card's task is lung_segmentation: "
            "expected one of efficientnet_lite, fcn, unet, unetplusplus",
        ),
        (
            "classification",
            "efficientnet",
            {"variant": "b9"},
            "efficientnet has no variant 'b9': expected one of b0, b1, b2",
        ),
        (
            "classification",
            "resnet",
            {"variant": "resnet9"},
            "resnet has no variant 'resnet9': expected one of resnet18, resnet34, resnet50",
        ),
        ("classification", "fpn", {"variant": "vgg"}, "fpn has no variant 'vgg': expected one of resnet18"),
        ("lung_segmentation", "unetplusplus", {"width": 1}, "unetplusplus has no parameter 'width'"),
        ("lung_segmentation", "efficientnet_lite", {"turns": 3}, "parameter 'turns' must be 1, 2 or 4, got 3"),
    ],
)
def test_a_network_that_cannot_be_built_says_why_in_one_line(
    task: TaskName, family: str, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as refused:
        build(card_with(task, family, **parameters))
    assert "\n" not in str(refused.value)
