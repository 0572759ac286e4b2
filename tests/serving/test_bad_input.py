"""Whatever comes in, each study has a clear outcome, and a bad one does not touch the others."""

import csv
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pytest
from coronanet.engines.base import EngineBase, Tensors, check_feeds
from coronanet.engines.predictor import IMAGE, ensemble_output
from coronanet.model.phantom import make_labelled_phantom
from coronanet.model.readers import try_inputs
from coronanet.model.tasks import TASK_NAMES
from coronanet.serving.predict import Outcome, predict_studies
from coronanet.serving.report import UNTOLD, Report
from coronanet.serving.triage import triage, write_triage
from numpy.typing import NDArray


class Thresholds(EngineBase):
    """Calls what is dark but not air lung, and what is between lesion."""

    def __init__(self) -> None:
        super().__init__((IMAGE,), tuple(ensemble_output(name) for name in TASK_NAMES), 8)

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(feeds, self.inputs, self.max_batch)
        image = feeds["image"]
        lesion = ((image > -700) & (image < -500)).astype(np.uint8)
        return {
            "infected_probability": np.full((len(image), 1), 0.8, np.float32),
            "lesion_mask": lesion,
            "lesion_types": lesion,
            "lung_mask": ((image > -950) & (image < -500)).astype(np.uint8),
        }


#: Two lungs of a chest in LPS, 24 slices of 10 mm.
CHEST = make_labelled_phantom(size=96, slices=24).study
AFFINE = np.asarray(CHEST.affine, np.float64)


def save(path: Path, image: NDArray[np.int16], affine: NDArray[np.float64] | None = None) -> Path:
    """Slices ``[Z, H, W]`` as a NIfTI file."""
    nib.save(nib.Nifti1Image(image.transpose(2, 1, 0), AFFINE if affine is None else affine), path)
    return path


def run(paths: list[Path], out: Path) -> Outcome:
    return predict_studies(Thresholds(), try_inputs(paths), out, models=UNTOLD)


def report_of(path: Path, out: Path) -> Report:
    (result,) = run([path], out).results
    assert (result.folder / "report.html").is_file()
    return result.report


def flags(report: Report) -> set[str]:
    return {flag.name for flag in report.quality}


def test_a_whole_chest_is_read_without_a_word(tmp_path: Path) -> None:
    report = report_of(save(tmp_path / "chest.nii", CHEST.image), tmp_path / "out")
    assert report.band is not None
    assert "lungs incomplete" not in flags(report)


def test_cloth_beside_the_body_is_cleared_before_anything_is_measured_or_written(tmp_path: Path) -> None:
    image = CHEST.image.copy()
    image[20:, 30:40, :4] = -600
    (result,) = run([save(tmp_path / "cloth.nii", image)], tmp_path / "out").results
    report = result.report
    assert report.cleaning.lung_pixels >= 4 * 40
    written = {
        name: np.asanyarray(nib.Nifti1Image.from_filename(result.folder / f"{name}.nii.gz").dataobj).transpose(2, 1, 0)
        for name in ("lung_mask", "lesion_mask", "lesion_types")
    }
    assert not any(mask[20:, 30:40, :4].any() for mask in written.values())
    lung = written["lung_mask"] > 0
    involved = 100 * np.count_nonzero((written["lesion_mask"] > 0) & lung) / np.count_nonzero(lung)
    assert report.severity.whole.percent_involved == pytest.approx(involved)
    assert report.findings.lung_pixels == np.count_nonzero(lung)
    spacing = report.input.spacing_mm
    assert spacing is not None
    assert report.severity.whole.lung_ml == pytest.approx(np.count_nonzero(lung) * np.prod(spacing) / 1000)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("empty", "holds nothing that can be read"), ("none.nii", "empty"), ("4d.nii", "expected one volume with 3")],
)
def test_what_is_no_volume_is_refused_and_nothing_is_written(tmp_path: Path, name: str, reason: str) -> None:
    path = tmp_path / name
    if name == "empty":
        path.mkdir()
    else:
        shape = (8, 8, 0) if name == "none.nii" else (8, 8, 8, 2)
        nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), np.eye(4)), path)
    outcome = run([path], tmp_path / "out")
    assert outcome.exit_code == 2
    assert reason in outcome.failures[0].reason
    assert not (tmp_path / "out").exists()


def test_one_slice_has_figures_but_no_score(tmp_path: Path) -> None:
    report = report_of(save(tmp_path / "one.nii", CHEST.image[10:11]), tmp_path / "out")
    assert flags(report) >= {"few slices", "lungs incomplete"}
    assert report.band is None
    assert report.severity.whole.percent_involved is not None
    assert {item.verdict for item in report.risk if item.measure != "pleural_effusion"} == {"cannot be said"}


def test_half_a_series_is_called_cut_off(tmp_path: Path) -> None:
    report = report_of(save(tmp_path / "half.nii", CHEST.image[8:]), tmp_path / "out")
    assert report.severity.incomplete == "the lungs are cut off towards the feet"
    assert report.band is None


def test_another_part_of_the_body_is_finished_without_lungs(tmp_path: Path) -> None:
    image = np.full((24, 64, 64), 40, np.int16)
    image[:, :4] = -1000
    report = report_of(save(tmp_path / "knee.nii", image), tmp_path / "out")
    assert "lungs incomplete" in flags(report)
    assert report.severity.whole.percent_involved is None
    assert report.band is None


def test_pixels_that_are_not_square_are_measured_and_flagged(tmp_path: Path) -> None:
    whole = report_of(save(tmp_path / "square.nii", CHEST.image), tmp_path / "out")
    thinned = AFFINE @ np.diag([1.0, 2.0, 1.0, 1.0])
    thin = report_of(save(tmp_path / "thin.nii", CHEST.image[:, ::2], thinned), tmp_path / "out")
    assert "pixels not square" in flags(thin)
    assert thin.severity.whole.lung_ml == pytest.approx(whole.severity.whole.lung_ml, rel=0.02)


def test_a_turned_affine_measures_the_same_and_keeps_its_sides(tmp_path: Path) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]]
    straight = report_of(save(tmp_path / "straight.nii", CHEST.image), tmp_path / "out").severity
    turned = report_of(save(tmp_path / "turned.nii", CHEST.image, turn @ AFFINE), tmp_path / "out").severity
    assert turned.whole.lung_ml == pytest.approx(straight.whole.lung_ml)
    assert straight.sides is not None
    assert turned.sides is not None
    assert turned.sides["right"].lung_ml == pytest.approx(straight.sides["right"].lung_ml, rel=0.02)


def test_three_broken_ones_of_twenty_are_listed_and_seventeen_finished(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"s{number:02}.nii", CHEST.image[10:12, ::2, ::2]) for number in range(20)]
    paths[3].write_bytes(paths[3].read_bytes()[:4000])
    paths[9].write_bytes(b"not NIfTI at all")
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8, 3), np.int16), np.eye(4)), paths[17])
    outcome = run(paths, tmp_path / "out")
    assert outcome.exit_code == 1
    assert [Path(failure.origin).name for failure in outcome.failures] == ["s03.nii", "s09.nii", "s17.nii"]
    write_triage(tmp_path / "out", triage(outcome))
    names = {f"s{number:02}" for number in range(20)} - {"s03", "s09", "s17"}
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == names | {"triage.csv"}
    with (tmp_path / "out" / "triage.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["severity_band"] for row in rows].count("not finished") == 3
    assert [row["rank"] for row in rows] == [*map(str, range(1, 18)), "", "", ""]


def test_a_study_that_fails_while_it_is_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.nii", CHEST.image[:2])
    save(tmp_path / "b.nii", CHEST.image[:2])
    whole, calls = Path.write_text, list[Path]()

    def fails_once(path: Path, *arguments: Any, **options: Any) -> int:
        if path.name == "report.html":
            calls.append(path)
            if len(calls) == 1:
                raise OSError(28, "No space left on device")
        return whole(path, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", fails_once)
    outcome = run([tmp_path / "a.nii", tmp_path / "b.nii"], tmp_path / "out")
    assert [failure.origin for failure in outcome.failures] == ["a"]
    assert "No space left on device" in outcome.failures[0].reason
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["b"]


def test_an_image_without_a_window_is_listed_behind_what_was_finished(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "slice.png"), np.full((40, 40), 90, np.uint8))
    chest = save(tmp_path / "chest.nii", CHEST.image)
    outcome = run([chest, tmp_path / "slice.png"], tmp_path / "out")
    assert [Path(failure.origin).name for failure in outcome.failures] == ["slice.png"]
    assert [row.severity_band for row in triage(outcome)][-1] == "not finished"


def test_1200_slices_take_the_memory_of_their_masks_and_little_more(tmp_path: Path) -> None:
    def peak(slices: int) -> int:
        image = np.repeat(CHEST.image[:, ::2, ::2], slices // 24, axis=0)
        study = replace(CHEST, name=str(slices), image=image, spacing_mm=(0.2, 3.0, 3.0), kind="nifti")
        tracemalloc.start()
        outcome = predict_studies(Thresholds(), [study], tmp_path, models=UNTOLD)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert outcome.exit_code == 0
        return highest

    masks = 3 * 48 * 48
    short, long = peak(240), peak(1200)
    # Three masks in memory, one more on its way to the disk, and a record of every slice.
    assert long - short < (1200 - 240) * (masks * 4 / 3 + 6000)
