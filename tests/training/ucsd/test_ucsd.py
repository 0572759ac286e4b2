"""UCSD COVID-CT is read alike whatever the file was, its test split stays shut, and its classifier is chosen on val."""

import csv
import functools
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from coronanet.cli import main
from coronanet.model.card import Card, Network
from coronanet.model.errors import UsageError
from coronanet.model.weights import load_network
from coronanet.training.ucsd import train as ucsd_train
from coronanet.training.ucsd.images import FOLDER, SIDE, content_box, decode_grey, encode_alike, ucsd_files, ucsd_images
from coronanet.training.ucsd.train import UcsdLearner, random_view, train_ucsd
from numpy.typing import NDArray

SPLITS = {"train": 12, "val": 8, "test": 4}
TINY = Network(family="efficientnet", parameters={"variant": "b0", "width": 0.25, "dropout": 0.0})


def figure(seed: int, *, lesion: bool, height: int = 90, width: int = 120) -> NDArray[np.uint8]:
    """Two dark lungs in a bright body on black, as figures of CT are; smooth, so that JPEG keeps it."""
    rng = np.random.default_rng(seed)
    grey = np.zeros((height, width), np.uint8)
    cv2.ellipse(grey, (width // 2, height // 2), (width // 2 - 4, height // 2 - 4), 0, 0, 360, (200,), -1)
    for x in (width // 3, 2 * width // 3):
        cv2.ellipse(grey, (x, height // 2), (width // 8, height // 4), 0, 0, 360, (40,), -1)
        if lesion:
            cv2.circle(grey, (x, height // 2 + int(rng.integers(-6, 6))), width // 12, (140,), -1)
    return cv2.GaussianBlur(grey, (0, 0), 1.5).astype(np.uint8)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of the real set: COVID-19 as PNG, the others by turns as JPEG and PNG."""
    folder = tmp_path_factory.mktemp("data")
    rows: list[dict[str, object]] = []
    for split, count in SPLITS.items():
        for number in range(count):
            covid = number % 2 == 0
            kind = "jpg" if number % 4 == 1 else "png"
            name = f"{'COVID' if covid else 'NonCOVID'}/{split}{number}.{kind}"
            path = folder / FOLDER / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), figure(number, lesion=covid, width=100 + 4 * number))
            patient = f"{split} {number}"
            rows.append({"file": name, "covid": int(covid), "split": split, "patient_id": patient, "orig_mode": "RGB"})
    with (folder / FOLDER / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_every_image_of_a_split_comes_in_one_form(figures: Path) -> None:
    read = list(ucsd_images(figures, "train"))
    assert len(read) == SPLITS["train"]
    assert {(image.shape, image.dtype.name) for _, image, _ in read} == {((SIDE, SIDE), "int16")}
    assert all(covid == (path.parent.name == "COVID") for path, _, covid in read)
    assert min(image.min() for _, image, _ in read) >= -1350
    assert max(image.max() for _, image, _ in read) <= 150


def test_the_test_split_opens_for_the_final_evaluation_alone(figures: Path) -> None:
    with pytest.raises(UsageError, match="evaluate --final"):
        list(ucsd_images(figures, "test"))
    with pytest.raises(UsageError, match="evaluate --final"):
        ucsd_files(figures, "test")
    assert len(list(ucsd_images(figures, "test", final=True))) == SPLITS["test"]


def test_splits_share_no_patient(figures: Path) -> None:
    patients = [{file.patient for file in ucsd_files(figures, split)} for split in ("train", "val")]
    assert not patients[0] & patients[1]


def test_a_folder_without_the_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no .*split\.csv: --data"):
        ucsd_files(tmp_path, "train")


def test_a_broken_image_is_named(tmp_path: Path) -> None:
    for content in (b"", b"not a picture"):
        (tmp_path / "broken.png").write_bytes(content)
        with pytest.raises(UsageError, match=r"cannot decode .*broken\.png"):
            decode_grey(tmp_path / "broken.png")


@pytest.mark.parametrize("name", ["grey.png", "grey.jpg", "colour.png", "colour.jpg", "alpha.png"])
def test_the_kind_of_file_leaves_no_trace(tmp_path: Path, name: str) -> None:
    grey = figure(0, lesion=True)
    colour = {"grey": grey, "colour": cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)}
    colour["alpha"] = cv2.cvtColor(grey, cv2.COLOR_GRAY2BGRA)
    cv2.imwrite(str(tmp_path / name), colour[name.partition(".")[0]])
    difference = encode_alike(decode_grey(tmp_path / name)).astype(int) - encode_alike(grey)
    assert np.abs(difference).mean() < 1.0


def test_what_is_transparent_lies_on_black(tmp_path: Path) -> None:
    picture = np.full((8, 8, 4), 200, np.uint8)
    picture[..., 3] = 255
    picture[:, :4, 3] = 0
    cv2.imwrite(str(tmp_path / "alpha.png"), picture)
    grey = decode_grey(tmp_path / "alpha.png")
    assert grey[:, :4].max() == 0
    assert grey[:, 4:].min() == 200


@pytest.mark.parametrize("white", [True, False])
def test_margins_of_paper_and_frame_are_peeled_off(white: bool) -> None:
    grey = figure(0, lesion=True)
    framed = cv2.copyMakeBorder(grey, 9, 0, 15, 4, cv2.BORDER_CONSTANT, value=(255 if white else 0,))
    difference = encode_alike(framed.astype(np.uint8)).astype(int) - encode_alike(grey)
    assert np.abs(difference).mean() < 1.0


@pytest.mark.parametrize("value", [0, 255])
def test_a_flat_image_keeps_its_middle(value: int) -> None:
    rows, columns = content_box(np.full((100, 60), value, np.uint8))
    assert (rows.start, rows.stop) == (30, 70)
    assert (columns.start, columns.stop) == (18, 42)


def test_views_are_mirrored_but_never_upside_down() -> None:
    image = np.full((SIDE, SIDE), -1000, np.int16)
    image[SIDE // 2 :] = 0
    image[:, : SIDE // 3] += 150
    left = set[bool]()
    for seed in range(40):
        view = random_view(image, (64, 64), np.random.default_rng(seed))
        assert view.shape == (64, 64)
        assert view.dtype == np.int16
        assert view[-16:].mean() > view[:16].mean()
        left.add(bool(view[:, :16].mean() > view[:, -16:].mean()))
    assert left == {True, False}


def test_a_seed_decides_the_view() -> None:
    image = encode_alike(figure(0, lesion=True)).astype(np.int16)
    views = [random_view(image, (64, 64), np.random.default_rng(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


@pytest.fixture
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ucsd_train, "STEPS_PER_EPOCH", 5)


tiny_train = functools.partial(train_ucsd, batch=4, network=TINY)


@pytest.mark.usefixtures("short_epochs")
def test_training_publishes_a_card_and_weights_that_fit_it(figures: Path, tmp_path: Path) -> None:
    card = tiny_train(figures, tmp_path / "out", tmp_path / "runs", size=32, steps=20)
    folder = tmp_path / "out" / "ucsd"
    assert Card.load(folder / "card.json") == card
    assert card.task == "classification"
    assert card.training_data.sources == ("UCSD COVID-CT train",)
    assert card.training_data.slices == SPLITS["train"]
    assert set(card.validation) == {"auc", "f1", "accuracy"}
    load_network(card, folder / "weights.safetensors")


@pytest.mark.usefixtures("short_epochs")
def test_the_published_weights_are_those_with_the_best_auc_on_val(
    figures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = [0.5, 0.9, 0.2, 0.7]
    seen: list[NDArray[np.float32]] = []

    def scripted(self: UcsdLearner) -> dict[str, float]:
        seen.append(torch.cat([value.flatten() for value in self.network.parameters()]).detach().numpy().copy())
        return {"auc": told[min(len(seen), len(told)) - 1]}

    monkeypatch.setattr(UcsdLearner, "scores", scripted)
    tiny_train(figures, tmp_path / "out", tmp_path / "runs", size=32, steps=20)
    *during, published = seen
    assert [np.array_equal(weights, published) for weights in during] == [False, True, False, False]


@pytest.mark.usefixtures("short_epochs")
def test_training_can_begin_with_given_weights(figures: Path, tmp_path: Path) -> None:
    tiny_train(figures, tmp_path / "out", tmp_path / "runs", size=32, steps=20)
    wrong = tmp_path / "wrong.safetensors"
    wrong.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="not a safetensors file"):
        tiny_train(figures, tmp_path / "out", tmp_path / "runs", size=32, steps=20, start=wrong)
    given = tmp_path / "out" / "ucsd" / "weights.safetensors"
    assert "auc" in tiny_train(figures, tmp_path / "two", tmp_path / "runs", size=32, steps=20, start=given).validation


def test_a_size_that_no_network_takes_is_refused(figures: Path, tmp_path: Path) -> None:
    for size in (0, 100, 1024):
        with pytest.raises(UsageError, match=f"multiple of 32 .*got {size}"):
            tiny_train(figures, tmp_path / "out", tmp_path / "runs", size=size)


@pytest.mark.usefixtures("short_epochs")
def test_the_verb_says_its_score_beside_the_shortcuts(
    figures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ucsd_train, "train_ucsd", tiny_train)
    folders = {"--data": figures, "--out": tmp_path / "out", "--runs": tmp_path / "runs"}
    given = [str(part) for pair in folders.items() for part in pair]
    answer = run(["ucsd", *given, "--steps", "20", "--size", "32", "--json"], capsys)
    assert Card.load(Path(answer["path"]) / "card.json").validation == answer["validation"]
    assert set(answer["shortcut_baseline_auc"]) == {"published", "encoded"}


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert not stopped.value.code
    return json.loads(capsys.readouterr().out)


def test_the_verb_says_where_the_data_should_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["ucsd", "--data", str(tmp_path), "--json"])
    assert stopped.value.code == 2
    assert "split.csv" in json.loads(capsys.readouterr().out)["error"]
