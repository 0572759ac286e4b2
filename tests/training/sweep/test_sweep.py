"""`coronanet sweep`: the talk's table, from runs that are kept."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from coronanet.cli import main
from coronanet.engines import datasets
from coronanet.engines.places import ROOT
from coronanet.engines.samples import Sample, Supervision
from coronanet.model.card import Card
from coronanet.model.weights import load_network
from coronanet.training import fit
from coronanet.training.recipes import Recipe
from coronanet.training.sweep import train as sweep
from coronanet.training.sweep.learner import TalkLearner, talk_scores
from coronanet.training.sweep.plan import RATES, TALK, Budget, Run, best, rate_name
from coronanet.training.sweep.report import describe, draw_curves, read_curves, render_page, report, rows
from coronanet.training.train import make_card
from torch import Tensor, nn

TINY = Budget(steps=6, batch=2, size=32, features=2)
OPTIONS = ["--steps", "6", "--batch", "2", "--size", "32", "--features", "2", "--workers", "0", "--json"]


@pytest.fixture(autouse=True)
def small_and_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """The synthetic volumes alone."""
    for task in ("binary_segmentation", "multiclass_segmentation"):
        monkeypatch.setitem(datasets.SOURCES, task, (("Radiopaedia", datasets.radiopaedia),))


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", *OPTIONS, *arguments])
    return int(stopped.value.code or 0), json.loads(capsys.readouterr().out)


def test_the_verb_makes_the_talks_table_and_keeps_finished_runs(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    given = ["--data", str(synthetic_data), "--out", str(out)]
    code, told = ask(capsys, *given, "--rates", "1e-2,1e-4")
    assert code == 0
    assert [(row["task"], row["rate"]) for row in told["rows"]] == [
        (task, rate) for task in TALK for rate in ("1e-2", "1e-4")
    ]
    assert [row["talk_dice"] for row in told["rows"]] == [0.5641, 0.7965, 0.5160, 0.6160]
    assert sum(row["best"] for row in told["rows"]) == 2
    assert all(0 <= row["dice"] <= 1 and 0 <= row["rand_loss"] <= 1 for row in told["rows"])
    assert (told["budget"]["steps"], told["budget"]["batch"], told["budget"]["size"]) == (6, 2, 32)
    assert json.loads((out / "sweep.json").read_text())["rows"] == told["rows"]
    with (out / "sweep.csv").open(newline="") as file:
        assert [float(row["dice"]) for row in csv.DictReader(file)] == [row["dice"] for row in told["rows"]]
    assert cv2.imread(str(out / "curves.png")) is not None

    trained: list[float] = []
    really = sweep.fit

    def counted(cards: Any, recipe: Recipe, *rest: Any, **named: Any) -> fit.Fitted:
        trained.append(recipe.learning_rate)
        return really(cards, recipe, *rest, **named)

    monkeypatch.setattr(sweep, "fit", counted)
    _, more = ask(capsys, *given, "--rates", "1e-2,1e-3,1e-4", "--tasks", "binary_segmentation")
    assert trained == [1e-3]
    assert [row["rate"] for row in more["rows"]] == ["1e-2", "1e-3", "1e-4"]
    assert (more["rows"][0]["dice"], more["rows"][2]["dice"]) == (told["rows"][0]["dice"], told["rows"][1]["dice"])


def test_a_run_leaves_weights_and_a_curve_and_no_checkpoint(synthetic_data: Path, tmp_path: Path) -> None:
    (run,) = sweep.sweep_task("binary_segmentation", [1e-3], synthetic_data, tmp_path, TINY, workers=0)
    folder = tmp_path / "binary_segmentation" / "1e-3"
    assert {path.name for path in folder.iterdir()} >= {"card.json", "weights.safetensors", "metrics.csv", "run.json"}
    assert not list(folder.glob("*.ckpt"))
    card = Card.load(folder / "card.json")
    assert (card.geometry.height, card.geometry.width) == (32, 32)
    network = load_network(card, folder / "weights.safetensors")
    scores = talk_scores(network, card, datasets.load_split(("binary_segmentation",), synthetic_data).validation)
    # Half precision on disk may move a pixel.
    assert scores["dice"] == pytest.approx(run.dice, abs=0.01)
    curves = read_curves(folder / "metrics.csv")
    assert [step for step, _ in curves["dice"]] == list(range(6))
    assert curves["dice"][-1][1] == pytest.approx(run.dice, abs=1e-3)


def test_another_budget_is_not_mixed_into_a_table(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--data", str(synthetic_data), "--out", str(tmp_path), "--rates", "1e-3", "--tasks", "binary_segmentation"]
    ask(capsys, *given)
    code, told = ask(capsys, *given, "--steps", "7")
    assert code == 2
    assert '"steps": 6' in told["error"]
    assert "choose another --out" in told["error"]


def test_other_data_are_not_mixed_into_a_table(synthetic_data: Path, tmp_path: Path) -> None:
    sweep.sweep_task("binary_segmentation", [1e-3], synthetic_data, tmp_path, TINY, workers=0)
    path = tmp_path / "binary_segmentation" / "1e-3" / "run.json"
    path.write_text(path.read_text().replace('"data_sha256": "', '"data_sha256": "0'))
    with pytest.raises(sweep.UsageError, match="other data"):
        sweep.sweep_task("binary_segmentation", [1e-3], synthetic_data, tmp_path, TINY, workers=0)


def test_a_run_that_was_stopped_leaves_nothing_that_looks_finished(
    synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "save_weights", stop)
    with pytest.raises(KeyboardInterrupt):
        sweep.sweep_task("binary_segmentation", [1e-3], synthetic_data, tmp_path, TINY, workers=0)
    assert not list(tmp_path.rglob("run.json"))


def test_the_optimiser_and_the_schedule_are_the_talks() -> None:
    learner = talk_learner(Recipe(TINY.network, learning_rate=1e-2, weight_decay=5e-4), epoch_steps=3)
    told = learner.configure_optimizers()
    optimizer, schedule = told["optimizer"], told["lr_scheduler"]["scheduler"]
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["weight_decay"] == 5e-4
    rates: list[float] = []
    for _ in range(601):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[299] == 1e-2
    assert rates[300] == pytest.approx(1e-3)
    assert rates[600] == pytest.approx(1e-4)
    assert told["lr_scheduler"]["interval"] == "step"


def test_dice_is_of_slices_with_the_class_and_rand_loss_of_all() -> None:
    half = np.zeros((8, 8), np.uint8)
    half[:4] = 1
    lesion, free = sample(half, "types"), sample(np.zeros((8, 8), np.uint8), "lesion")
    everything = talk_scores(Says(torch.ones(1)), card("binary_segmentation"), [lesion, free])
    assert everything["dice"] == pytest.approx(2 / 3)
    # All in one class: the pairs between the halves, 32 x 32 of 64 x 63 / 2, are wrong; on the other slice none.
    assert everything["rand_loss"] == pytest.approx(32 * 32 / (64 * 63 / 2) / 2)


def test_a_kind_is_scored_only_where_the_labels_tell_it() -> None:
    half = np.zeros((8, 8), np.uint8)
    half[:4] = 1
    consolidation = Says(torch.tensor([0.0, 0.0, 9.0, 0.0]))
    samples = [sample(half, "types"), sample(half, "lesion"), sample(half, "effusion"), sample(half + half, "types")]
    scores = talk_scores(consolidation, card("multiclass_segmentation"), samples)
    assert scores["dice_ground_glass"] == 0
    assert scores["dice_pleural_effusion"] == 0
    assert scores["dice_consolidation"] == pytest.approx(2 / 3)
    assert scores["dice"] == pytest.approx(2 / 9)
    assert scores["rand_loss"] == pytest.approx(32 * 32 / (64 * 63 / 2))


def test_the_best_rate_has_the_highest_dice_and_only_the_talks_rates_have_its_figures() -> None:
    runs = [run(1e-2, 0.5, 0.1), run(1e-3, 0.7, 0.2), run(3e-4, 0.7, 0.1)]
    assert best(runs).rate == 3e-4
    table = rows(runs)
    assert [row["best"] for row in table] == [False, False, True]
    assert [row["talk_dice"] for row in table] == [0.5641, 0.7374, None]
    assert [rate_name(rate) for rate in (*RATES, 2.5e-4)] == ["1e-2", "1e-3", "1e-4", "1e-5", "2.5e-4"]


def test_the_page_has_the_table_the_budget_and_the_curves() -> None:
    page = render_page(report([run(1e-2, 0.5, 0.1), run(3e-4, 0.7, 0.2)], TINY))
    assert "| 1e-2 | 0.5000 | 0.1000 | 0.5641 | 0.2167 |" in page
    assert "| **3e-4** | 0.7000 | 0.2000 |  |  |" in page
    assert describe(TINY) in page
    assert "](curves.png)" in page


def test_the_committed_page_is_what_the_committed_sweep_says() -> None:
    folder = ROOT / "docs" / "sweep"
    told = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert (folder / "sweep.md").read_text(encoding="utf-8") == render_page(told)
    assert (folder / "curves.png").is_file()


def test_curves_are_drawn_for_every_task_even_where_nothing_was_logged() -> None:
    line = {"loss": [(0, 1.0), (9, 0.5)], "dice": [(4, 0.1), (9, 0.4)]}
    one = draw_curves({("binary_segmentation", 1e-3): line}, "a budget")
    two = draw_curves(
        {("binary_segmentation", 1e-3): line, ("multiclass_segmentation", 1e-3): {"loss": [], "dice": []}}, "a budget"
    )
    small, large = (cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) for png in (one, two))
    assert large.shape[0] == 2 * small.shape[0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--rates", "1e-3,fast"], "--rates '1e-3,fast'"),
        (["--rates", "0"], "above 0"),
        (["--rates", "nan"], "above 0"),
        (["--tasks", "lung_segmentation"], "expected binary_segmentation or multiclass_segmentation"),
        (["--size", "100"], "such as 96"),
    ],
)
def test_a_wrong_option_says_what_was_expected(
    wrong: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = ask(capsys, *wrong)
    assert code == 2
    assert message in told["error"]


class Says(nn.Module):
    """The same logits for every pixel."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.logits[None, :, None, None].expand(len(pixels), -1, *pixels.shape[-2:])


def sample(labels: np.ndarray[Any, np.dtype[np.uint8]], supervision: Supervision) -> Sample:
    return Sample(np.zeros(labels.shape, np.int16), labels, supervision, "synthetic-1")


def card(task: Any) -> Card:
    return make_card(task, TINY.network, datasets.Split((), (), (), "0" * 64), {})


def talk_learner(recipe: Recipe, *, epoch_steps: int) -> TalkLearner:
    return TalkLearner({"binary_segmentation": card("binary_segmentation")}, recipe, (), epoch_steps=epoch_steps)


def run(rate: float, dice: float, rand_loss: float) -> Run:
    return Run("binary_segmentation", rate, TINY, "0" * 64, {"dice": dice, "rand_loss": rand_loss}, 1.0)
