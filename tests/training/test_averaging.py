"""The averaged weights are what is scored and published, and the current ones where there is no average yet."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from coronanet.model.card import Card, Geometry, Network
from coronanet.model.tasks import TaskName
from coronanet.model.weights import load_network
from coronanet.training import learner
from coronanet.training.learner import Learner
from coronanet.training.recipes import RECIPES
from coronanet.training.train import train
from torch import Tensor, nn

STEPS, BEGIN, DECAY = 20, 5, 0.75
TINY = dataclasses.replace(
    RECIPES["lung_segmentation"],
    network=Network(family="unet", parameters={"features": 2, "dropout": 0.0}),
    geometry=Geometry(height=32, width=32),
    imagenet=False,
    steps=STEPS,
    batch=2,
    ema_decay=DECAY,
    validation_steps=4,
)


def head(network: nn.Module) -> Tensor:
    return network.get_parameter("head.bias").detach().clone()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], list[Tensor]]:
    """The head's bias after every step, and wherever it was scored."""
    after: list[Tensor] = []
    scored: list[Tensor] = []

    def on_train_batch_end(self: Learner, *_: Any) -> None:
        after.append(head(self.network("lung_segmentation")))

    def score(network: nn.Module, *_: Any) -> dict[str, float]:
        scored.append(head(network))
        return {"dice": 0.5}

    monkeypatch.setattr(Learner, "on_train_batch_end", on_train_batch_end)
    monkeypatch.setattr(learner, "score", score)
    return after, scored


def run(data: Path, folder: Path, **changes: Any) -> Tensor:
    """Train; the published bias."""
    cards: Mapping[TaskName, Card] = train(
        ["lung_segmentation"],
        data,
        folder / "out",
        folder / "runs",
        recipe=dataclasses.replace(TINY, **changes),
        workers=0,
    )
    path = folder / "out" / "lung_segmentation" / "weights.safetensors"
    return head(load_network(cards["lung_segmentation"], path))


def test_the_average_is_scored_and_published(
    synthetic_data: Path, tmp_path: Path, watched: tuple[list[Tensor], list[Tensor]]
) -> None:
    published = run(synthetic_data, tmp_path)
    after, scored = watched
    averages = [*after[:BEGIN], after[BEGIN]]
    for current in after[BEGIN + 1 :]:
        averages.append(DECAY * averages[-1] + (1 - DECAY) * current)
    # The last is scored twice: as a validation and for the card.
    wanted = [averages[step - 1] for step in (4, 8, 12, 16, 20, 20)]
    torch.testing.assert_close(torch.stack(scored), torch.stack(wanted), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(published, averages[-1], atol=1e-4, rtol=1e-3)
    assert not torch.equal(scored[1], after[7])


def test_a_run_that_gets_no_better_ends_early_and_publishes_what_was_learnt(
    synthetic_data: Path, tmp_path: Path, watched: tuple[list[Tensor], list[Tensor]]
) -> None:
    published = run(synthetic_data, tmp_path, patience=1, steps=100, validation_steps=6)
    after, scored = watched
    # The score never rises: the second look ends the run, long before the average begins.
    assert len(after) == 12
    torch.testing.assert_close(published, after[-1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(torch.stack(scored), torch.stack([after[5], after[11], after[11]]))
