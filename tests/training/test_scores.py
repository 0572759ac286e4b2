"""Scores on the slices held back, through the card's own way in and out, and only where the labels tell the truth."""

import numpy as np
import pytest
import torch
from coronanet.engines.samples import Sample, Split, Supervision
from coronanet.model.card import Geometry, Network
from coronanet.model.tasks import TaskName
from coronanet.training.recipes import Recipe
from coronanet.training.scores import score
from coronanet.training.train import card_for
from torch import Tensor, nn

SIDE = 64
RECIPE = Recipe(Network(family="unet", parameters={}), geometry=Geometry(height=SIDE, width=SIDE))
#: Lesions are drawn as densities, so that a network of one threshold can find them.
HU = {0: -1300, 1: -600, 2: 0, 3: 140}


def drawn(supervision: Supervision, *columns: int, lung: int | None = None, labels: list[int] | None = None) -> Sample:
    """A slice of upright stripes; the labels are those of the stripes unless given."""
    wide = np.repeat(np.array(columns), SIDE // len(columns))
    image = np.tile(np.array([HU[value] for value in wide]), (SIDE, 1)).astype(np.int16)
    said = wide if labels is None else np.repeat(np.array(labels), SIDE // len(labels))
    mask = None if lung is None else np.full((SIDE, SIDE), lung, np.uint8)
    return Sample(image, np.tile(said, (SIDE, 1)).astype(np.uint8), supervision, "made-1", mask)


class Seer(nn.Module):
    """Reads the density off the pixels: ``channels`` logits, the right one high."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: Tensor) -> Tensor:
        assert not self.training
        hu = (pixels * 0.3 + 0.5) * 1500 - 1350
        if self.channels == 1:
            return (hu > -1000).float() * 20 - 10
        levels = torch.tensor([float(value) for value in HU.values()]).view(1, -1, 1, 1)
        return -(hu - levels).abs() / 10


def scores(task: TaskName, *samples: Sample) -> dict[str, float]:
    card = card_for(task, RECIPE, Split((), (), (), "0" * 64), {})
    network = Seer(card.spec.channels).train()
    told = score(network, card, samples)
    assert network.training
    return told


def test_each_kind_of_lesion_is_scored_where_its_label_is_exact() -> None:
    told = scores(
        "multiclass_segmentation",
        # Half of what is called ground glass is labelled so.
        drawn("types", 1, 1, 2, 0, labels=[1, 0, 2, 0]),
        # The kind is not known, so nothing is scored here though all is wrong.
        drawn("lesion", 2, 2, 2, 2, labels=[0, 0, 0, 1]),
        drawn("effusion", 0, 3, 3, 0, labels=[0, 1, 1, 1]),
    )
    each = {"ground_glass": 2 / 3, "consolidation": 1.0, "pleural_effusion": 0.8}
    pooled = {f"dice_pooled_{name}": value for name, value in each.items()}
    assert told == pytest.approx({f"dice_{name}": value for name, value in each.items()} | pooled)


def test_lesion_or_not_is_scored_on_every_slice_that_tells() -> None:
    told = scores(
        "binary_segmentation",
        drawn("types", 1, 2, 0, 0),
        drawn("lesion", 1, 0, 0, 0, labels=[1, 1, 0, 0]),
        drawn("effusion", 1, 1, 1, 1, labels=[0, 0, 0, 0]),
    )
    # Pooled: 3 quarters are found, 4 are there, all 3 rightly.
    # Each: all of the first, half of the second.
    assert told == pytest.approx({"dice": (1 + 2 / 3) / 2, "dice_pooled": 6 / 7})


def test_a_slice_without_the_label_counts_in_the_pool_alone() -> None:
    told = scores("binary_segmentation", drawn("types", 1, 1, 0, 0), drawn("types", 1, 0, 0, 0, labels=[0, 0, 0, 0]))
    assert told == pytest.approx({"dice": 1.0, "dice_pooled": 4 / 5})


def test_lungs_are_scored_where_they_are_drawn() -> None:
    told = scores("lung_segmentation", drawn("types", 1, 1, 1, 0, lung=1), drawn("types", 1, 1, 1, 1))
    assert told == pytest.approx({"dice": 6 / 7, "dice_pooled": 6 / 7})


def test_a_classifier_is_scored_at_its_operating_point() -> None:
    class Mean(Seer):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(pixels).mean(dim=(2, 3))

    card = card_for("classification", RECIPE, Split((), (), (), "0" * 64), {})
    told = score(
        Mean(1),
        card,
        [
            drawn("types", 1, 1, 1, 0),
            drawn("types", 1, 1, 1, 1, labels=[1, 0, 0, 0]),
            drawn("types", 1, 0, 0, 0, labels=[0, 0, 0, 0]),
            drawn("lesion", 1, 0, 0, 0),
            drawn("effusion", 1, 1, 1, 1, labels=[1, 1, 1, 1]),
        ],
    )
    assert told == pytest.approx({"auc": 5 / 6, "sensitivity": 2 / 3, "specificity": 1.0})
