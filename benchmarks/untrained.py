"""A U-Net that has learnt nothing, of any size: how fast such a network would be, before anybody trains one."""

from pathlib import Path

import torch
from torch import nn

from ..engines.bundle import CARD, WEIGHTS
from ..model.card import Card, Geometry, Network, Normalisation, TrainingData, Window
from ..model.networks import build
from ..model.tasks import TASKS, TaskName
from ..model.weights import save_weights

TASK: TaskName = "binary_segmentation"
INTENDED_USE = "Measuring speed. It has learnt nothing: what it answers means nothing. Not a medical device."


def write_untrained(folder: Path, *, features: int, size: int) -> Card:
    """Write ``card.json`` and ``weights.safetensors`` of a U-Net with seeded weights, for `coronanet export`.

    Args:
        folder: made where it is not there.
        features: channels at full resolution.
        size: height and width of what the network takes.

    Raises:
        UsageError: there is no such U-Net.
        OSError: the folder cannot be written to.
    """
    card = Card(
        task=TASK,
        network=Network(family="unet", parameters={"features": features}),
        labels=TASKS[TASK].labels,
        geometry=Geometry(height=size, width=size),
        window=Window(low_hu=-1350, high_hu=150),
        normalisation=Normalisation(mean=0.5, std=0.3),
        threshold=0.5,
        tolerance=0.001,
        training_data=TrainingData(sources=(), slices=0, sha256=""),
        validation={},
        licence="Apache-2.0",
        intended_use=INTENDED_USE,
    )
    write_source(card, folder)
    return card


def write_source(card: Card, folder: Path) -> None:
    """Write a card, and seeded weights of its network, such that what goes through it keeps its size from layer to
    layer, as in a trained network.

    Raises:
        UsageError: there is no such network.
        OSError: the folder cannot be written to.
    """
    torch.manual_seed(0)
    network = build(card)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight)
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder / WEIGHTS)
    (folder / CARD).write_text(card.to_json(), encoding="utf-8")
