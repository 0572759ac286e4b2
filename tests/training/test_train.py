"""`coronanet train` from data to weights that load, the same ones for the same seed."""

import csv
import dataclasses
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coronanet.cli import main
from coronanet.engines import datasets
from coronanet.model.card import Card, Geometry, Network, Normalisation, Window
from coronanet.model.weights import load_network
from coronanet.training.checkpoints import steps_done
from coronanet.training.config import read_config, write_config
from coronanet.training.learner import Learner
from coronanet.training.recipes import RECIPES, SEGMENTATIONS, Recipe
from coronanet.training.train import train
from safetensors.torch import load_file

TINY = Recipe(
    Network(family="unet", parameters={"features": 2, "dropout": 0.1}),
    geometry=Geometry(height=64, width=64),
    steps=20,
    batch=2,
    ema_decay=0.9,
    checkpoint_steps=10,
    validation_steps=10,
)
WEIGHTS = "weights.safetensors"


@pytest.fixture
def radiopaedia_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every task learns from the synthetic volumes."""
    for task in SEGMENTATIONS:
        monkeypatch.setitem(datasets.SOURCES, task, (("Radiopaedia", datasets.radiopaedia),))


def where(data: Path, folder: Path) -> list[str]:
    given = {"--data": data, "--out": folder / "out", "--runs": folder / "runs", "--workers": 0}
    return [str(part) for pair in given.items() for part in pair]


def ask(capsys: pytest.CaptureFixture[str], *given: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, the object on stdout, and stderr."""
    with pytest.raises(SystemExit) as stopped:
        main(["train", *given, "--json"])
    said = capsys.readouterr()
    return int(stopped.value.code or 0), json.loads(said.out), said.err


def curve(runs: Path) -> list[dict[str, str]]:
    with (runs / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_publishes_a_card_weights_that_fit_it_and_the_recipe(synthetic_data: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        TINY, window=Window(low_hu=-1000.0, high_hu=400.0), normalisation=Normalisation(mean=0.4, std=0.2)
    )
    cards = train(["lung_segmentation"], synthetic_data, tmp_path / "out", tmp_path / "runs", recipe=recipe, workers=0)
    card = cards["lung_segmentation"]
    folder = tmp_path / "out" / "lung_segmentation"
    assert Card.load(folder / "card.json") == card
    assert (card.window, card.normalisation, card.geometry) == (recipe.window, recipe.normalisation, recipe.geometry)
    assert set(card.validation) == {"dice", "dice_pooled"}
    assert card.training_data.sources == ("Radiopaedia",)
    assert card.training_data.slices == 18
    network = load_network(card, folder / WEIGHTS)
    assert all(np.isfinite(value.numpy()).all() for value in network.state_dict().values())
    assert read_config(folder / "config.toml") == recipe
    assert (tmp_path / "runs" / "lung_segmentation" / "last.ckpt").is_file()
    assert len(list((tmp_path / "runs" / "lung_segmentation" / "tensorboard").iterdir())) == 1


@pytest.mark.usefixtures("radiopaedia_alone")
def test_tasks_that_train_together_share_all_but_their_last_layer(synthetic_data: Path, tmp_path: Path) -> None:
    cards = train(SEGMENTATIONS, synthetic_data, tmp_path / "out", tmp_path / "runs", recipe=TINY, workers=0)
    assert list(cards) == list(SEGMENTATIONS)
    networks = {task: load_network(card, tmp_path / "out" / task / WEIGHTS) for task, card in cards.items()}
    multiclass, binary, lung = (networks[task].state_dict() for task in SEGMENTATIONS)
    for name, value in multiclass.items():
        if not name.startswith("head."):
            assert torch.equal(value, binary[name])
            assert torch.equal(value, lung[name])
    assert not torch.equal(binary["head.weight"], lung["head.weight"])
    assert {name: set(card.validation) for name, card in cards.items()} == {
        "multiclass_segmentation": {
            f"dice{pooled}_{kind}" for kind in ("ground_glass", "consolidation") for pooled in ("", "_pooled")
        },
        "binary_segmentation": {"dice", "dice_pooled"},
        "lung_segmentation": {"dice", "dice_pooled"},
    }
    columns = set(curve(tmp_path / "runs" / "+".join(SEGMENTATIONS))[0])
    assert {"loss", "score", "loss_lung_segmentation", "lung_segmentation/dice"} <= columns


def test_a_seed_makes_the_same_run_again_and_another_seed_another(synthetic_data: Path, tmp_path: Path) -> None:
    made: list[tuple[bytes, bytes]] = []
    for number, seed in enumerate((5, 5, 6)):
        out, runs = tmp_path / f"out{number}", tmp_path / f"runs{number}"
        recipe = dataclasses.replace(TINY, seed=seed)
        train(["lung_segmentation"], synthetic_data, out, runs, recipe=recipe, workers=number % 2)
        kept = (runs / "lung_segmentation" / "metrics.csv", out / "lung_segmentation" / WEIGHTS)
        made.append((kept[0].read_bytes(), kept[1].read_bytes()))
    # The second was prepared by a process of its own: how many there are changes nothing.
    assert made[0] == made[1]
    assert made[0][0] != made[2][0]
    assert made[0][1] != made[2][1]


def test_the_verb_keeps_stdout_for_the_answer(
    synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(RECIPES, "lung_segmentation", TINY)
    code, told, said = ask(capsys, "lung_segmentation", *where(synthetic_data, tmp_path))
    assert code == 0
    (trained,) = told["trained"]
    assert Card.load(Path(trained["path"]) / "card.json").validation == trained["validation"]
    assert trained["pictures_left_out"] == 0
    assert "training lung_segmentation: unet, 20 steps of 2 slices at 64 x 64" in said
    assert "step 10 of 20: " in said
    assert "min left" in said


def test_a_config_that_a_run_wrote_makes_the_same_run_again(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_config(dataclasses.replace(TINY, learning_rate=3e-4), tmp_path / "mine.toml")
    kept: list[list[bytes]] = []
    config = tmp_path / "mine.toml"
    for name in ("one", "two"):
        code, *_ = ask(
            capsys,
            "lung_segmentation",
            *where(synthetic_data, tmp_path / name),
            "--config",
            str(config),
            "--size",
            "32",
        )
        assert code == 0
        out, config = tmp_path / name / "out", tmp_path / name / "out" / "lung_segmentation" / "config.toml"
        kept.append([path.read_bytes() for path in sorted(out.rglob("*.*")) if path.is_file()])
    assert kept[0] == kept[1]
    assert len(kept[0]) == 3
    assert read_config(config).geometry == Geometry(height=32, width=32)


@pytest.mark.parametrize(
    ("option", "value", "changed"),
    [
        ("--size", "96", {"geometry": Geometry(height=96, width=96)}),
        ("--batch", "3", {"batch": 3}),
        ("--learning-rate", "2e-5", {"learning_rate": 2e-5}),
        ("--steps", "33", {"steps": 33}),
        ("--patience", "2", {"patience": 2}),
    ],
)
def test_an_option_changes_one_thing_of_the_recipe(
    synthetic_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
    changed: dict[str, Any],
) -> None:
    from coronanet.training import train as module

    used: list[Recipe] = []

    def watched(*_: object, recipe: Recipe, **__: object) -> dict[str, Card]:
        used.append(recipe)
        return {}

    monkeypatch.setattr(module, "train", watched)
    monkeypatch.setitem(RECIPES, "lung_segmentation", TINY)
    code, *_ = ask(capsys, "lung_segmentation", *where(synthetic_data, tmp_path), option, value)
    assert code == 0
    assert used == [dataclasses.replace(TINY, **changed)]


@pytest.mark.parametrize(
    ("option", "value", "named"), [("--size", "100", "multiple of 32"), ("--learning-rate", "0", "greater than 0")]
)
def test_an_option_that_does_not_fit_is_named(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, named: str
) -> None:
    code, told, _ = ask(capsys, "lung_segmentation", *where(synthetic_data, tmp_path), option, value)
    assert code == 2
    assert named in told["error"]


def test_a_run_that_is_interrupted_publishes_nothing_and_says_how_to_go_on(
    synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(self: Learner, *_: object) -> None:
        if self.global_step == 15:
            raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "on_train_batch_end", interrupt)
    monkeypatch.setitem(RECIPES, "lung_segmentation", TINY)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as stopped:
            main(["train", "lung_segmentation", *where(synthetic_data, tmp_path)])
    finally:
        # Lightning ignores a second Ctrl-C from then on.
        signal.signal(signal.SIGINT, before)
    assert stopped.value.code == 130
    assert "stopped: --resume goes on from the last checkpoint" in capsys.readouterr().err
    assert steps_done(tmp_path / "runs" / "lung_segmentation" / "last.ckpt") == 10
    assert not (tmp_path / "out").exists()


def test_a_broken_picture_is_said_and_left_out(
    synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(synthetic_data, tmp_path / "data")
    path = tmp_path / "data" / "radiopaedia9_medseg2" / "images" / "r9_z002.jpg"
    path.write_bytes(path.read_bytes()[:300])
    monkeypatch.setitem(RECIPES, "lung_segmentation", TINY)
    code, told, said = ask(capsys, "lung_segmentation", *where(tmp_path / "data", tmp_path))
    assert code == 0
    assert told["trained"][0]["pictures_left_out"] == 1
    assert "warning: picture left out (1 so far): " in said
    assert "r9_z002.jpg is damaged or truncated" in " ".join(said.split())


def test_a_run_can_begin_with_given_weights(synthetic_data: Path, tmp_path: Path) -> None:
    still = dataclasses.replace(TINY, learning_rate=1e-12, weight_decay=0.0, validation_steps=100)
    train(["lung_segmentation"], synthetic_data, tmp_path / "one", tmp_path / "runs", recipe=TINY, workers=0)
    given = tmp_path / "one" / "lung_segmentation" / WEIGHTS
    for start, out in ((given, tmp_path / "file"), (tmp_path / "one", tmp_path / "folder")):
        train(["lung_segmentation"], synthetic_data, out, tmp_path / "more", recipe=still, workers=0, start=start)
        before, after = load_file(given), load_file(out / "lung_segmentation" / WEIGHTS)
        for name, value in before.items():
            if "running_" not in name and "num_batches" not in name:
                torch.testing.assert_close(after[name], value, atol=1e-5, rtol=0)


def test_a_file_of_weights_is_for_one_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / WEIGHTS).touch()
    code, told, _ = ask(capsys, "lung_segmentation", "classification", "--from", str(tmp_path / WEIGHTS))
    assert code == 2
    assert "expected one task, got 2" in told["error"]


def test_the_verb_says_where_the_data_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = ask(capsys, "lung_segmentation", "--data", str(tmp_path / "none"))
    assert code == 2
    assert "no data folder at" in told["error"]


def test_an_unknown_task_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    code, told, _ = ask(capsys, "cooking")
    assert code == 2
    assert "expected classification, binary_segmentation" in told["error"]
