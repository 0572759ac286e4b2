"""The baseline sees format, borders and corners, and nothing of the lungs."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from coronanet.model.errors import UsageError
from coronanet.training.ucsd.images import FOLDER, UcsdFile
from coronanet.training.ucsd.shortcuts import (
    border_format_baseline,
    border_format_features,
    encoded_border_features,
    fit_logistic,
    shortcut_scores,
)
from numpy.typing import NDArray


def picture(seed: int, height: int = 96, width: int = 96) -> NDArray[np.uint8]:
    """Smooth noise: nothing in it depends on a class."""
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(40, 200, (6, 6)).astype(np.uint8), (width, height)).astype(np.uint8)


def write(path: Path, grey: NDArray[np.uint8], *, covid: bool = False, mode: str = "RGB") -> UcsdFile:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), grey)
    return UcsdFile(path, covid, path.stem, mode)


def test_the_format_alone_tells_classes_that_look_the_same(tmp_path: Path) -> None:
    """COVID-19 as PNG, the others as JPEG: found in the published files, gone once all are encoded alike."""
    rows: list[dict[str, object]] = []
    for number in range(120):
        covid, split = number % 2 == 0, "train" if number < 80 else "val"
        name = f"images/{number}.{'png' if covid else 'jpg'}"
        write(tmp_path / FOLDER / name, picture(number))
        rows.append({"file": name, "covid": int(covid), "split": split, "patient_id": number, "orig_mode": "RGB"})
    with (tmp_path / FOLDER / "split.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    scores = shortcut_scores(tmp_path, "val")
    assert scores["published"] > 0.99
    assert 0.2 < scores["encoded"] < 0.8
    with pytest.raises(UsageError, match="evaluate --final"):
        shortcut_scores(tmp_path, "test")


def test_scores_are_probabilities_one_a_file(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{n}.png", picture(n), covid=n % 2 == 0) for n in range(12)]
    scores = border_format_baseline(files[:9], files[9:])
    assert scores.shape == (3,)
    assert np.all((scores >= 0) & (scores <= 1))


def test_the_lungs_change_nothing(tmp_path: Path) -> None:
    grey = picture(1)
    other = grey.copy()
    other[20:-20, 20:-20] = 255 - other[20:-20, 20:-20]
    one, two = write(tmp_path / "one.png", grey), write(tmp_path / "two.png", other)
    np.testing.assert_array_equal(border_format_features(one), border_format_features(two))


def test_each_shortcut_is_seen(tmp_path: Path) -> None:
    plain = picture(2)
    lettered = plain.copy()
    cv2.putText(lettered, "A", (0, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255,), 2)
    margin = plain.copy()
    margin[-6:] = 255
    before = border_format_features(write(tmp_path / "plain.png", plain))
    assert border_format_features(write(tmp_path / "plain.jpg", plain))[0] != before[0]
    assert border_format_features(write(tmp_path / "plain.png", plain, mode="RGBA"))[2] == 1
    assert border_format_features(write(tmp_path / "lettered.png", lettered))[-4] > before[-4] + 0.05
    white_at_the_bottom = 7 + 4 + 1
    assert border_format_features(write(tmp_path / "margin.png", margin))[white_at_the_bottom] > 0.99


def test_what_is_left_after_encoding_has_no_format(tmp_path: Path) -> None:
    png, jpg = (write(tmp_path / f"same.{kind}", picture(3)) for kind in ("png", "jpg"))
    np.testing.assert_allclose(encoded_border_features(png), encoded_border_features(jpg), atol=0.02)


def test_logistic_regression_finds_what_made_the_data() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 3))
    wanted = np.array([1.5, -1.0, 0.0, 0.5])
    chance = 1 / (1 + np.exp(-(features @ wanted[:3] + wanted[3])))
    truth = (rng.random(4000) < chance).astype(float)
    np.testing.assert_allclose(fit_logistic(features, truth, ridge=0.1), wanted, atol=0.15)


def test_a_ridge_bounds_what_separates_perfectly() -> None:
    features = np.array([[-1.0], [-1.0], [1.0], [1.0]])
    truth = np.array([0.0, 0.0, 1.0, 1.0])
    weak, strong = (fit_logistic(features, truth, ridge=ridge)[0] for ridge in (0.1, 10.0))
    assert np.isfinite(weak)
    assert weak > strong > 0
