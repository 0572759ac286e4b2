"""What a slice does not say must not be taught, whichever task learns from it."""

from typing import Any

import numpy as np
import pytest
import torch
from coronanet.engines.samples import SUPERVISIONS, UNKNOWN, Sample, Split, Supervision
from coronanet.model.card import Geometry, Network
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TASK_NAMES, TaskName
from coronanet.training.learner import Learner, build_together
from coronanet.training.losses import partial_label_loss
from coronanet.training.recipes import SEGMENTATIONS, Recipe
from coronanet.training.train import card_for
from torch import Tensor

SIDE = 64
UNET = Network(family="unet", parameters={"features": 2, "dropout": 0.0})
RECIPE = Recipe(UNET, geometry=Geometry(height=SIDE, width=SIDE))
CLASSIFIER = Recipe(Network(family="resnet", parameters={"width": 0.0625}), geometry=Geometry(height=SIDE, width=SIDE))
NOTHING = Split((), (), (), "0" * 64)


def learner(*tasks: TaskName) -> Learner:
    torch.manual_seed(0)
    recipe = CLASSIFIER if tasks == ("classification",) else RECIPE
    made = Learner({task: card_for(task, recipe, NOTHING, {}) for task in tasks}, recipe, ())
    made.log = made.log_dict = lambda *_, **__: None  # pyright: ignore[reportAttributeAccessIssue]
    return made


def item(supervision: Supervision, labels: int, lung: int) -> Sample:
    image = np.full((SIDE, SIDE), -700, np.int16)
    image[16:48, 16:48] = 0
    values = np.zeros((SIDE, SIDE), np.uint8)
    values[16:48, 16:48] = labels
    return Sample(image, values, supervision, "made-1", np.full((SIDE, SIDE), lung, np.uint8))


def batch(*samples: Sample) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    lungs = [sample.lung for sample in samples if sample.lung is not None]
    return (
        torch.from_numpy(np.stack([sample.image for sample in samples])),
        torch.from_numpy(np.stack([sample.labels for sample in samples])),
        torch.from_numpy(np.stack(lungs)),
        torch.tensor([SUPERVISIONS.index(sample.supervision) for sample in samples]),
    )


def slopes(made: Learner, given: tuple[Tensor, ...]) -> dict[str, Tensor]:
    made.zero_grad()
    made.training_step(given, 0).backward()  # pyright: ignore[reportArgumentType]
    return {name: value.grad.clone() for name, value in made.named_parameters() if value.grad is not None}


@pytest.mark.parametrize("task", TASK_NAMES)
def test_what_the_labels_of_a_slice_do_not_tell_teaches_nothing(task: TaskName) -> None:
    """The labels in question may say anything: every slope stays the same."""
    known = item("types", 1, 1)
    silent: dict[TaskName, tuple[Sample, Sample]] = {
        "classification": (item("effusion", 0, 1), item("effusion", 1, 1)),
        "binary_segmentation": (item("effusion", 0, 1), item("effusion", 1, 1)),
        "multiclass_segmentation": (item("lesion", 1, 0), item("lesion", 1, 1)),
        "lung_segmentation": (item("types", 0, UNKNOWN), item("lesion", 1, UNKNOWN)),
    }
    made = learner(task).eval()
    given = [batch(known, sample) for sample in silent[task]]
    if task != "multiclass_segmentation":
        # Here such a slice has no say at all, not even by its number.
        given.append(batch(known))
    first, *others = (slopes(made, each) for each in given)
    for other in others:
        assert first.keys() == other.keys()
        for name, slope in first.items():
            # One slice more in a batch changes the order of a sum, and so the last digits.
            torch.testing.assert_close(slope, other[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_what_the_labels_do_tell_is_taught(task: TaskName) -> None:
    told: dict[TaskName, tuple[Sample, Sample]] = {
        "classification": (item("types", 0, 1), item("types", 1, 1)),
        "binary_segmentation": (item("lesion", 0, 1), item("lesion", 1, 1)),
        "multiclass_segmentation": (item("effusion", 0, 1), item("effusion", 1, 1)),
        "lung_segmentation": (item("types", 0, 0), item("types", 0, 1)),
    }
    made = learner(task).eval()
    one, other = (slopes(made, batch(sample)) for sample in told[task])
    assert any(not torch.allclose(slope, other[name]) for name, slope in one.items())


@pytest.mark.parametrize("task", ["classification", "binary_segmentation", "lung_segmentation"])
def test_a_batch_that_tells_a_task_nothing_costs_nothing(task: TaskName) -> None:
    made = learner(task)
    given = batch(item("effusion", 1, UNKNOWN), item("effusion", 0, UNKNOWN))
    loss = made.training_step(given, 0)
    assert loss.item() == 0
    assert all(not slope.any() for slope in slopes(made, given).values())


def test_together_a_task_without_a_slice_is_left_out_of_the_loss() -> None:
    made = learner(*SEGMENTATIONS).eval()
    logged: dict[str, Any] = {}

    def note(told: dict[str, Any]) -> None:
        logged.update(told)

    made.log_dict = note  # pyright: ignore[reportAttributeAccessIssue]
    loss = made.training_step(batch(item("types", 1, UNKNOWN)), 0)
    assert set(logged) == {"loss_multiclass_segmentation", "loss_binary_segmentation"}
    torch.testing.assert_close(loss, torch.stack(list(logged.values())).sum())


def test_losses_are_computed_in_single_precision_under_autocast() -> None:
    made = learner("multiclass_segmentation").eval()
    given = batch(item("types", 1, 1), item("lesion", 1, 1), item("effusion", 1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        pixels = made.preprocess(given[0])
        logits = made.logits(pixels)["multiclass_segmentation"].float()
        loss = made.training_step(given, 0)
    torch.testing.assert_close(loss, partial_label_loss(logits, given[1], given[3]), rtol=1e-5, atol=1e-6)


def test_together_every_task_gives_its_own_loss_in_one_pass() -> None:
    made = learner(*SEGMENTATIONS).eval()
    given = batch(item("types", 1, 1), item("types", 2, 1))
    together = made.training_step(given, 0)
    trunk = made.networks.state_dict()
    alone: list[Tensor] = []
    for task in SEGMENTATIONS:
        one = learner(task).eval()
        own = {name.removeprefix(f"{task}."): value for name, value in trunk.items() if name.startswith(task)}
        one.network(task).load_state_dict(own)
        alone.append(one.training_step(given, 0))
    torch.testing.assert_close(together, torch.stack(alone).sum())
    # The trunk is one: a parameter list that held it three times would take three steps at once.
    shared = sum(value.numel() for value in made.parameters())
    heads = sum(
        value.numel() for task in SEGMENTATIONS for value in made.network(task).get_submodule("head").parameters()
    )
    single = learner("binary_segmentation")
    head = sum(value.numel() for value in single.network("binary_segmentation").get_submodule("head").parameters())
    assert shared - heads == sum(value.numel() for value in single.parameters()) - head


@pytest.mark.parametrize(
    ("tasks", "networks"),
    [
        (("binary_segmentation", "lung_segmentation"), (UNET, Network(family="unet", parameters={"features": 4}))),
        (("binary_segmentation", "lung_segmentation"), (Network(family="fcn", parameters={"features": 2}),) * 2),
        (("lung_segmentation", "classification"), (Network(family="efficientnet_lite", parameters={}),) * 2),
    ],
)
def test_networks_that_cannot_share_are_refused(tasks: tuple[TaskName, ...], networks: tuple[Network, ...]) -> None:
    cards: dict[TaskName, Any] = {
        task: card_for(task, Recipe(network), NOTHING, {}) for task, network in zip(tasks, networks, strict=True)
    }
    with pytest.raises(UsageError, match="one segmentation family with the same parameters"):
        build_together(cards)
