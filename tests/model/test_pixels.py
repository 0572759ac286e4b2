"""Golden values of the one preprocessing and the one decision, worked out by hand."""

import numpy as np
import pytest
import torch
from coronanet.export.shipped import PRETRAINED
from coronanet.model.card import Card
from coronanet.model.pixels import DecideMask, DecideProbability, Preprocess, build_decide


@pytest.fixture
def card() -> Card:
    return Card.load(PRETRAINED / "binary_segmentation" / "card.json")


@pytest.fixture
def types_card() -> Card:
    return Card.load(PRETRAINED / "multiclass_segmentation" / "card.json")


def test_the_window_becomes_zero_to_one_and_everything_outside_is_clipped(card: Card) -> None:
    low, high = card.window.low_hu, card.window.high_hu
    hu = [-32768, low, (low + high) / 2, high, 32767]
    for value, wanted in zip(hu, (0, 0, 0.5, 1, 1), strict=True):
        image = torch.full((1, 8, 8), int(value), dtype=torch.int16)
        pixels = Preprocess(card)(image)
        assert pixels.dtype == torch.float32
        assert pixels.shape == (1, 1, card.geometry.height, card.geometry.width)
        expected = (wanted - card.normalisation.mean) / card.normalisation.std
        np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-6)


def test_halving_the_size_averages_blocks_of_four(card: Card) -> None:
    rng = np.random.default_rng(0)
    height, width = card.geometry.height, card.geometry.width
    image = rng.integers(-1000, 100, (2, 2 * height, 2 * width)).astype(np.int16)
    pixels = Preprocess(card)(torch.from_numpy(image))[:, 0].numpy()
    blocks = image.reshape(2, height, 2, width, 2).astype(np.float64).mean(axis=(2, 4))
    scaled = (blocks - card.window.low_hu) / (card.window.high_hu - card.window.low_hu)
    wanted = (scaled - card.normalisation.mean) / card.normalisation.std
    np.testing.assert_allclose(pixels, wanted, atol=1e-5)


def test_height_and_width_are_not_mistaken_for_each_other(card: Card) -> None:
    image = torch.full((1, 40, 90), -1000, dtype=torch.int16)
    image[:, :, 45:] = 0
    pixels = Preprocess(card)(image)[0, 0]
    assert torch.all(pixels[:, 0] < pixels[:, -1])
    torch.testing.assert_close(pixels[0], pixels[-1])


def test_one_channel_is_lesion_from_the_threshold_on(card: Card) -> None:
    assert card.threshold is not None
    edge = float(np.log(card.threshold / (1 - card.threshold)))
    logits = torch.tensor([edge - 0.01, edge + 0.01]).reshape(2, 1, 1, 1).expand(2, 1, 16, 16)
    mask = DecideMask(card)(logits, torch.zeros((2, 33, 21), dtype=torch.int16))
    assert mask.dtype == torch.uint8
    assert mask.shape == (2, 33, 21)
    assert mask[0].max() == 0
    assert mask[1].min() == 1


def test_several_channels_are_decided_by_the_largest_and_the_lowest_wins_a_tie(types_card: Card) -> None:
    logits = torch.zeros((1, 4, 4, 4))
    logits[:, 2, :, 2:] = 5
    mask = DecideMask(types_card)(logits, torch.zeros((1, 8, 8), dtype=torch.int16))
    assert mask[0, 0].tolist() == [0, 0, 0, 2, 2, 2, 2, 2]


def test_a_classifier_decides_by_its_probability_alone() -> None:
    card = Card.load(PRETRAINED / "classification" / "card.json")
    decide = build_decide(card)
    assert isinstance(decide, DecideProbability)
    np.testing.assert_allclose(decide(torch.tensor([[0.0], [2.0]])).numpy(), [[0.5], [0.880797]], atol=1e-6)


def test_probabilities_are_softmax_resized_before_they_are_compared(types_card: Card) -> None:
    """Between a sure and an unsure pixel the sure one reaches farther, which comparing logits or labels would miss."""
    logits = torch.full((1, 4, 1, 2), -1e4)
    logits[0, 1, 0, 0], logits[0, 0, 0, 0] = 5.0, 0.0
    logits[0, 0, 0, 1], logits[0, 1, 0, 1] = 0.2, 0.0
    mask = DecideMask(types_card)(logits, torch.zeros((1, 1, 20), dtype=torch.int16))[0, 0].numpy()
    probability = logits.softmax(dim=1)[0, :2, 0].numpy()
    position = np.clip((np.arange(20) + 0.5) / 20 * 2 - 0.5, 0, 1)
    resized = probability[:, :1] * (1 - position) + probability[:, 1:] * position
    np.testing.assert_array_equal(mask, resized.argmax(axis=0))
    assert (mask == 1).sum() > 10
