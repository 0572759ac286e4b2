"""`coronanet predict` as a person types it."""

import csv
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from coronanet.engines.base import EngineBase, Tensors, check_feeds
from coronanet.engines.predictor import IMAGE, Choice, ensemble_output
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TASK_NAMES
from coronanet.serving import predict_run
from coronanet.serving.predict_cli import parse_choice, register
from coronanet.serving.report import UNTOLD
from numpy.typing import NDArray
from typer import Typer
from typer.testing import CliRunner, Result


class FakeEnsemble(EngineBase):
    def __init__(self) -> None:
        super().__init__((IMAGE,), tuple(ensemble_output(name) for name in TASK_NAMES), 4)

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(feeds, self.inputs, self.max_batch)
        mask = (feeds["image"] > -600).astype(np.uint8)
        probability = np.full((len(mask), 1), 0.5, np.float32)
        return {
            "infected_probability": probability, "lesion_mask": mask, "lesion_types": mask, "lung_mask": mask ^ 1
        }  # fmt: skip


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A fake ensemble in place of the local one; the list tells how often it was opened."""
    times: list[str] = []

    @contextmanager
    def fake(*_: object) -> Generator[predict_run.Ensemble]:
        times.append("opened")
        yield FakeEnsemble(), UNTOLD

    monkeypatch.setattr(predict_run, "local_ensemble", fake)
    return times


def predict(*arguments: object) -> Result:
    app = Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture
def slice_png(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "slice.png"), np.tile(np.arange(0, 256, 4, np.uint8), (48, 1)))
    return tmp_path / "slice.png"


@pytest.mark.parametrize(
    "window",
    [
        ["--window", "-1350", "150"],
        ["--window", "-1350 150"],
        ["--window", "lung"],
        ["--window=-1350", "150"],
        ["--window=-1350 150"],
        ["--window=lung"],
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_window_is_two_numbers_or_a_name(
    tmp_path: Path, slice_png: Path, opened: list[str], window: list[str], last: bool
) -> None:
    files = [slice_png, "--out", tmp_path / "out"]
    result = predict(*files, *window) if last else predict(*window, *files)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "slice" / "report.json").read_text())
    assert report["input"]["window_hu"] == [-1350.0, 150.0]


def test_json_is_one_object_with_every_report(tmp_path: Path, slice_png: Path, opened: list[str]) -> None:
    result = predict(slice_png, "--out", tmp_path / "out", "--window", -1350, 150, "--json")
    answer = json.loads(result.stdout)
    assert answer["exit_code"] == 0
    assert answer["failures"] == []
    assert answer["results"][0]["report"]["input"]["name"] == "slice"
    assert Path(answer["results"][0]["folder"]) == tmp_path / "out" / "slice"


def test_json_has_the_order_of_triage_and_the_counts_by_band(
    tmp_path: Path, slice_png: Path, opened: list[str]
) -> None:
    result = predict(slice_png, "--out", tmp_path / "out", "--window", "lung", "--json")
    given = json.loads(result.stdout)["triage"]
    assert [(row["rank"], row["study"]) for row in given["rows"]] == [(1, "slice")]
    assert {band["band"]: band["studies"] for band in given["bands"]}["cannot be said"] == 1
    with (tmp_path / "out" / "triage.csv").open(encoding="utf-8", newline="") as file:
        assert [row["study"] for row in csv.DictReader(file)] == ["slice"]


def test_people_get_the_order_the_counts_and_what_is_published(
    tmp_path: Path, slice_png: Path, opened: list[str]
) -> None:
    shown = predict(slice_png, "--out", tmp_path / "out", "--window", "lung").stdout
    for said in (
        "cannot be said",
        "surrogate CT score",
        "published on this band",
        "18 to 25",
        "By severity band",
        "Surrogate of",
    ):
        assert said in shown


def test_a_list_that_is_not_ours_is_not_replaced(tmp_path: Path, slice_png: Path, opened: list[str]) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "triage.csv").write_text("mine")
    result = predict(slice_png, "--out", tmp_path / "out", "--window", "lung")
    assert isinstance(result.exception, UsageError)
    assert opened == []
    assert (tmp_path / "out" / "triage.csv").read_text() == "mine"


def test_people_get_a_table_and_the_disclaimer(tmp_path: Path, slice_png: Path, opened: list[str]) -> None:
    result = predict(slice_png, "--out", tmp_path / "out", "--window", "lung")
    assert "slice" in result.stdout
    assert "Not a medical device" in result.stdout


def test_some_of_many_failed_is_exit_code_1_with_the_good_ones_finished(
    tmp_path: Path, slice_png: Path, opened: list[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"x")
    arguments = (
        tmp_path / "broken.png",
        slice_png,
        tmp_path / "lost.nii",
        "--out",
        tmp_path / "out",
        "--window",
        "lung",
    )
    result = predict(*arguments, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert [Path(failure["origin"]).name for failure in answer["failures"]] == ["broken.png", "lost.nii"]
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["slice", "triage.csv"]
    assert predict(*arguments).exit_code == 1


@pytest.mark.parametrize("files", [["lost.png"], ["lost.png", "lost.nii.gz"]])
def test_nothing_readable_is_refused_before_any_network_is_opened(
    tmp_path: Path, opened: list[str], files: list[str]
) -> None:
    result = predict(*(tmp_path / name for name in files), "--out", tmp_path / "out")
    assert isinstance(result.exception, UsageError)
    assert files[0] in str(result.exception)
    assert opened == []
    assert not (tmp_path / "out").exists()


def test_many_failures_are_the_first_reason_and_how_many_more(
    tmp_path: Path, slice_png: Path, opened: list[str]
) -> None:
    more = [tmp_path / f"{index}.png" for index in range(29)]
    for path in more:
        path.write_bytes(slice_png.read_bytes())
    result = predict(slice_png, *more, tmp_path / "lost.nii", "--out", tmp_path / "out")
    message = str(result.exception)
    assert message.startswith(str(slice_png))
    assert message.endswith(" (and 29 more like it and 1 more input that could not be read)")
    assert message.count("--window") == 1


def test_an_image_without_a_window_is_refused_with_the_option(
    tmp_path: Path, slice_png: Path, opened: list[str]
) -> None:
    result = predict(slice_png, "--out", tmp_path / "out")
    assert isinstance(result.exception, UsageError)
    assert "--window -1350 150" in str(result.exception)


def test_a_bad_window_is_refused(tmp_path: Path, slice_png: Path, opened: list[str]) -> None:
    result = predict(slice_png, "--out", tmp_path / "out", "--window", "-1350")
    assert isinstance(result.exception, UsageError)
    assert "two bounds" in str(result.exception)


def test_a_server_runs_its_own_networks(tmp_path: Path, slice_png: Path) -> None:
    result = predict(slice_png, "--out", tmp_path, "--server", "127.0.0.1:1", "--backend", "openvino")
    assert isinstance(result.exception, UsageError)
    assert "leave out" in str(result.exception)


@pytest.mark.parametrize(
    ("backend", "precision", "choice"),
    [
        (None, None, None),
        ("openvino", None, Choice("openvino", "fp32")),
        (None, "fp16", Choice("onnxruntime", "fp16")),
        (None, "bf16", Choice("openvino", "bf16")),
        ("torch", "fp32", Choice("torch", "fp32")),
        (None, "fp32", Choice("onnxruntime", "fp32")),
    ],
)
def test_a_backend_and_a_precision_make_a_choice(
    backend: str | None, precision: str | None, choice: Choice | None
) -> None:
    assert parse_choice(backend, precision) == choice


@pytest.mark.parametrize(("backend", "precision"), [("tensorflow", None), ("torch", "fp16"), (None, "int4")])
def test_what_no_backend_has_is_refused(backend: str | None, precision: str | None) -> None:
    with pytest.raises(UsageError, match="expected one of"):
        parse_choice(backend, precision)
