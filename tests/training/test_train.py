"""`coronanet train` from data to weights that load, and on again after a stop."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from coronanet.cli import main
from coronanet.model.card import Card, Geometry, Network
from coronanet.model.weights import load_network
from coronanet.training import fit
from coronanet.training.recipes import RECIPES
from coronanet.training.train import train

TINY = dataclasses.replace(
    RECIPES["lung_segmentation"],
    network=Network(family="unet", parameters={"features": 2, "dropout": 0.0}),
    geometry=Geometry(height=64, width=64),
    imagenet=False,
    steps=20,
    batch=2,
)


class Stopped(Exception):  # noqa: N818 - an event, not an error
    """What ends a run in the middle."""


@pytest.fixture
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "STEPS_PER_EPOCH", 5)


@pytest.mark.usefixtures("short_epochs")
def test_training_publishes_a_card_and_weights_that_fit_it(synthetic_data: Path, tmp_path: Path) -> None:
    cards = train(["lung_segmentation"], synthetic_data, tmp_path / "out", tmp_path / "runs", recipe=TINY, workers=0)
    card = cards["lung_segmentation"]
    folder = tmp_path / "out" / "lung_segmentation"
    assert Card.load(folder / "card.json") == card
    assert set(card.validation) == {"dice"}
    assert card.training_data.sources == ("Radiopaedia",)
    assert card.training_data.slices == 18
    network = load_network(card, folder / "weights.safetensors")
    assert all(np.isfinite(value.numpy()).all() for value in network.state_dict().values())


@pytest.mark.usefixtures("short_epochs")
def test_the_verb_keeps_stdout_for_the_answer(
    synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "lung_segmentation", TINY)
    folders = {"--data": synthetic_data, "--out": tmp_path / "out", "--runs": tmp_path / "runs"}
    given = [str(part) for pair in folders.items() for part in pair]
    with pytest.raises(SystemExit) as stopped:
        main(["train", "lung_segmentation", *given, "--workers", "0", "--json"])
    assert not stopped.value.code
    captured = capsys.readouterr()
    (trained,) = json.loads(captured.out)["trained"]
    assert Card.load(Path(trained["path"]) / "card.json").validation == trained["validation"]
    assert "Epoch" in captured.err


@pytest.mark.usefixtures("short_epochs")
def test_a_stopped_run_goes_on_from_its_last_epoch(synthetic_data: Path, tmp_path: Path) -> None:
    half = dataclasses.replace(TINY, steps=40)
    with pytest.MonkeyPatch.context() as patch:
        epochs = 0

        def stop_at_three(self: fit.Learner) -> None:
            nonlocal epochs
            epochs += 1
            if epochs == 3:
                raise Stopped

        patch.setattr(fit.Learner, "on_train_epoch_start", stop_at_three)
        with pytest.raises(Stopped):
            train(["lung_segmentation"], synthetic_data, tmp_path / "out", tmp_path / "runs", recipe=half, workers=0)
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    first = steps_logged(tmp_path / "runs" / "lung_segmentation" / "metrics.csv")
    train(
        ["lung_segmentation"], synthetic_data, tmp_path / "out", tmp_path / "runs", recipe=half, workers=0, resume=True
    )
    second = steps_logged(tmp_path / "runs" / "lung_segmentation" / "metrics.csv")
    assert max(first, default=0) < 15
    assert min(second) == 14, second
    assert max(second) == 39
    assert (tmp_path / "out" / "lung_segmentation" / "weights.safetensors").is_file()


@pytest.mark.usefixtures("short_epochs")
def test_a_run_can_begin_with_given_weights(synthetic_data: Path, tmp_path: Path) -> None:
    cards = train(["lung_segmentation"], synthetic_data, tmp_path / "one", tmp_path / "runs", recipe=TINY, workers=0)
    first = cards["lung_segmentation"]
    given = tmp_path / "one" / "lung_segmentation" / "weights.safetensors"
    still = dataclasses.replace(TINY, learning_rate=1e-12, weight_decay=0.0)
    train(
        ["lung_segmentation"], synthetic_data, tmp_path / "two", tmp_path / "more", recipe=still, workers=0, start=given
    )
    before = load_network(first, given)
    after = load_network(first, tmp_path / "two" / "lung_segmentation" / "weights.safetensors")
    for name, parameter in before.named_parameters():
        np.testing.assert_allclose(after.get_parameter(name).detach(), parameter.detach(), atol=1e-5)


def test_a_file_of_weights_is_for_one_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "weights.safetensors").touch()
    with pytest.raises(SystemExit) as stopped:
        main(["train", "lung_segmentation", "classification", "--from", str(tmp_path / "weights.safetensors")])
    assert stopped.value.code == 2
    assert "expected one task, got 2" in capsys.readouterr().err


def test_the_verb_says_where_the_data_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "lung_segmentation", "--data", str(tmp_path / "none"), "--json"])
    assert stopped.value.code == 2
    assert "no data folder at" in json.loads(capsys.readouterr().out)["error"]


def test_an_unknown_task_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "cooking"])
    assert stopped.value.code == 2
    assert "expected classification, binary_segmentation" in capsys.readouterr().err


def steps_logged(path: Path) -> list[int]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["loss"]]
