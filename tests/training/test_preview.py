"""The contact sheet shows what training sees, and names no patient."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from coronanet.cli import main
from coronanet.engines.datasets import SOURCES, radiopaedia
from coronanet.engines.samples import UNKNOWN, Sample
from coronanet.model.card import Geometry
from coronanet.model.errors import UsageError
from coronanet.training import preview as module
from coronanet.training.augment import View
from coronanet.training.preview import COLOURS, COLUMNS, LUNG_COLOUR, choose_rows, preview, tile
from coronanet.training.recipes import RECIPES


def sample(group: str, *, lesion: bool) -> Sample:
    labels = np.zeros((32, 32), np.uint8)
    labels[8:16, 8:16] = lesion
    return Sample(np.full((32, 32), -600, np.int16), labels, "lesion", group)


def read(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(np.uint8)


def has(picture: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], colour: tuple[int, int, int]) -> bool:
    return bool((picture == np.array(colour)).all(axis=-1).any())


def test_a_sheet_has_a_row_a_slice_and_a_column_a_view(synthetic_data: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(RECIPES["lung_segmentation"], geometry=Geometry(height=256, width=288))
    path = preview(["lung_segmentation"], synthetic_data, tmp_path / "new" / "sheet.png", rows=2, recipe=recipe)
    height, width, _ = read(path).shape
    assert width == COLUMNS * (288 + 2 * module.MARGIN)
    assert height == 2 * (256 + module.MARGIN + module.CAPTION) + module.CAPTION + 8
    assert [file.name for file in path.parent.iterdir()] == ["sheet.png"]


def test_a_seed_decides_the_sheet(synthetic_data: Path, tmp_path: Path) -> None:
    sheets = [
        read(
            preview(
                ["lung_segmentation"],
                synthetic_data,
                tmp_path / f"{number}.png",
                recipe=dataclasses.replace(RECIPES["lung_segmentation"], seed=seed),
                rows=1,
            )
        )
        for number, seed in enumerate((1, 1, 2))
    ]
    np.testing.assert_array_equal(sheets[0], sheets[1])
    assert sheets[0].shape != sheets[2].shape or not np.array_equal(sheets[0], sheets[2])


def test_captions_hold_the_source_and_the_supervision_but_no_group(
    synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def note(_: object, text: str, *__: object) -> None:
        written.append(text)

    monkeypatch.setattr(module, "_text", note)
    monkeypatch.setitem(SOURCES, "classification", SOURCES["lung_segmentation"])
    preview(["lung_segmentation", "classification"], synthetic_data, tmp_path / "sheet.png", rows=6)
    captions = [text for text in written if text.startswith("radiopaedia: ")]
    assert len(captions) == 6 * COLUMNS
    assert {text.partition(": ")[2].partition(",")[0] for text in captions} == {"types", "lesion"}
    assert any(text.endswith(", infected") for text in captions)
    assert any(text.endswith(", not infected") for text in captions)
    assert not any("radiopaedia-" in text for text in written)


def test_every_kind_of_slice_has_a_row_before_any_has_two() -> None:
    samples = [*(sample(f"one-{n}", lesion=True) for n in range(50)), sample("two-1", lesion=True)]
    samples.append(sample("two-2", lesion=False))
    groups = [chosen.group for chosen in choose_rows(samples, 4, np.random.default_rng(0))]
    assert {"two-1", "two-2"} < set(groups)
    assert sum(group.startswith("one") for group in groups) == 2


def test_contours_follow_labels_and_lungs() -> None:
    labels, lung = np.zeros((2, 240, 240), np.uint8)
    labels[20:40, 20:60] = 1
    lung[100:200, 100:200] = 1
    view = View(np.zeros((240, 240), np.int16), labels, lung)
    picture = tile(np.full((240, 240), 90, np.uint8), view, "lesion", "")[module.MARGIN :, module.MARGIN :]
    (_, lesion_colour) = COLOURS["lesion"][0]
    for corner, colour in (((20, 20), lesion_colour), ((39, 59), lesion_colour), ((100, 199), LUNG_COLOUR)):
        assert tuple(picture[corner]) == colour
    assert tuple(picture[30, 40]) == (90, 90, 90), "inside a contour the slice itself is seen"


def test_an_unknown_lung_has_no_contour() -> None:
    blank = np.zeros((240, 240), np.uint8)
    view = View(blank.astype(np.int16), blank, np.full_like(blank, UNKNOWN))
    assert not has(tile(blank, view, "types", "made: types"), LUNG_COLOUR)


def test_the_verb_draws_a_sheet_of_every_run_and_trains_nothing(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for task in ("binary_segmentation", "lung_segmentation"):
        monkeypatch.setitem(SOURCES, task, (("Radiopaedia", radiopaedia),))
    tasks = ["binary_segmentation", "lung_segmentation"]
    alone: list[str] = []
    for option, names in ((alone, tasks), (["--together"], ["+".join(tasks)])):
        runs, weights = tmp_path / "runs" / str(len(names)), tmp_path / "weights"
        folders = ["--data", str(synthetic_data), "--runs", str(runs), "--out", str(weights)]
        with pytest.raises(SystemExit) as stopped:
            main(["train", *tasks, *option, "--preview", *folders, "--json"])
        assert not stopped.value.code
        sheets = [runs / name / "preview.png" for name in names]
        assert json.loads(capsys.readouterr().out) == {"previews": [str(sheet) for sheet in sheets]}
        assert sorted(path for path in runs.rglob("*") if path.is_file()) == sorted(sheets)
        assert not weights.exists()


def test_another_kind_of_file_is_refused(synthetic_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png, got sheet\.pdf"):
        preview(["lung_segmentation"], synthetic_data, tmp_path / "sheet.pdf")
