"""`coronanet predict` on DICOM: objects beside the report, another series, whose study it is, and nobody's name."""

import json
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pytest
from coronanet import cli
from coronanet.engines.base import EngineBase, Tensors, check_feeds
from coronanet.engines.predictor import IMAGE, ensemble_output
from coronanet.model.phantom import make_phantom
from coronanet.model.tasks import TASK_NAMES
from coronanet.serving import dicom_out, predict_run
from coronanet.serving.report import UNTOLD
from numpy.typing import NDArray
from pydicom import dcmread

SeriesWriter = Callable[..., list[Path]]
OBJECTS = ["segmentation.dcm", "report-sr.dcm"]
SECRETS = ("Secret", "SECRET", "19500101")


class FakeEnsemble(EngineBase):
    """Decides by thresholds."""

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
def predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`coronanet predict --json` with a fake ensemble: exit code, the object on stdout, stderr."""

    @contextmanager
    def fake(*_: object) -> Generator[predict_run.Ensemble]:
        yield FakeEnsemble(), UNTOLD

    monkeypatch.setattr(predict_run, "local_ensemble", fake)

    def run(*arguments: object) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["predict", *map(str, arguments), "--out", str(tmp_path / "out"), "--json"])
        said = capsys.readouterr()
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, json.loads(said.out), said.err

    return run


def test_both_objects_lie_beside_the_report_which_names_them(
    tmp_path: Path, write_series: SeriesWriter, predict: Callable[..., Any]
) -> None:
    write_series(tmp_path / "chest")
    code, answer, _ = predict(tmp_path / "chest", "--dicom")
    assert code == 0
    (result,) = answer["results"]
    assert result["report"]["files"][-2:] == OBJECTS
    assert set(result["report"]["files"]) == {file.name for file in (tmp_path / "out" / "chest").iterdir()}
    assert dcmread(tmp_path / "out" / "chest" / OBJECTS[0]).PatientName == "Secret^Name"
    assert predict(tmp_path / "chest")[0] == 0
    assert not (tmp_path / "out" / "chest" / OBJECTS[0]).exists()


@pytest.mark.parametrize("options", [[], ["--dicom"]])
def test_results_inside_the_series_folder_do_not_disturb_the_next_run(
    tmp_path: Path, write_series: SeriesWriter, predict: Callable[..., Any], options: list[str]
) -> None:
    write_series(tmp_path / "out")
    assert predict(tmp_path / "out", *options)[0] == 0
    code, answer, _ = predict(tmp_path / "out", *options)
    assert code == 0
    (result,) = answer["results"]
    assert not any("Left out" in note for note in result["report"]["input"]["notes"])


def test_nobody_is_named_unless_it_is_asked_for(
    tmp_path: Path, write_series: SeriesWriter, predict: Callable[..., Any]
) -> None:
    study = dcmread(write_series(tmp_path / "chest")[0]).StudyInstanceUID
    _, answer, err = predict(tmp_path / "chest")
    written = [(tmp_path / "out" / "chest" / name).read_text() for name in ("report.json", "report.html")]
    written += [(tmp_path / "out" / "triage.csv").read_text(), json.dumps(answer), err]
    for text in written:
        assert not [secret for secret in (*SECRETS, study) if secret in text]
    assert answer["results"][0]["report"]["identity"] is None
    _, answer, err = predict(tmp_path / "chest", "--identify")
    identity = answer["results"][0]["report"]["identity"]
    assert (identity["patient_name"], identity["patient_id"]) == ("Secret^Name", "SECRET-7")
    assert identity["study_uid"] == study
    assert "Secret" not in err


def test_another_series_is_read_when_it_is_named(
    tmp_path: Path, write_series: SeriesWriter, predict: Callable[..., Any]
) -> None:
    write_series(tmp_path / "chest", SeriesNumber=1, ImageType=["DERIVED", "SECONDARY", "AXIAL"])
    write_series(tmp_path / "chest", SeriesNumber=2)
    _, _, err = predict(tmp_path / "chest")
    assert "2 CT series lie here; 2 (" in err
    _, answer, err = predict(tmp_path / "chest", "--series", "1")
    assert "2 CT series lie here; 1 (" in err
    assert "asked for" in answer["results"][0]["report"]["input"]["notes"][0]
    code, answer, _ = predict(tmp_path / "chest", "--series", "3")
    assert code == 2
    assert "has no series 3" in answer["error"]


def test_dicom_and_nifti_of_one_volume_measure_the_same(
    tmp_path: Path, write_series: SeriesWriter, predict: Callable[..., Any]
) -> None:
    phantom = make_phantom(size=64, slices=8)
    write_series(tmp_path / "chest", phantom)
    nib.save(nib.Nifti1Image(phantom.image.transpose(2, 1, 0), phantom.affine), tmp_path / "volume.nii.gz")
    _, answer, _ = predict(tmp_path / "chest", tmp_path / "volume.nii.gz")
    dicom, nifti = (result["report"] for result in answer["results"])
    assert dicom["input"]["image_sha256"] == nifti["input"]["image_sha256"]
    for part in ("findings", "severity", "band", "risk", "quality", "cleaning", "slices"):
        assert_alike(dicom[part], nifti[part])


def assert_alike(first: Any, second: Any) -> None:
    """Equal, but for what float32 leaves of a NIfTI file's affine."""
    if isinstance(first, dict | list):
        assert len(first) == len(second)
        for key in first if isinstance(first, dict) else range(len(first)):
            assert_alike(first[key], second[key])
    else:
        assert first == (pytest.approx(second, rel=1e-6) if isinstance(first, float) else second)


def test_options_for_dicom_are_warned_of_where_an_input_is_none(
    tmp_path: Path, write_series: SeriesWriter, predict: Callable[..., Any]
) -> None:
    write_series(tmp_path / "chest")
    cv2.imwrite(str(tmp_path / "slice.png"), np.tile(np.arange(0, 256, 4, np.uint8), (48, 1)))
    both = (tmp_path / "chest", tmp_path / "slice.png", "--window", "lung")
    code, answer, err = predict(*both, "--dicom", "--identify")
    assert code == 0
    for option in ("--dicom", "--identify"):
        assert f"{option} is for DICOM; 1 of 2 inputs are not" in err
    assert [OBJECTS[0] in result["report"]["files"] for result in answer["results"]] == [True, False]


def test_a_failure_of_the_objects_leaves_nothing_of_the_study(
    tmp_path: Path, write_series: SeriesWriter, predict: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("Secret^Name")

    monkeypatch.setattr(dicom_out, "make_report", fail)
    write_series(tmp_path / "chest")
    code, answer, err = predict(tmp_path / "chest", "--dicom")
    assert code == 2
    assert "no DICOM object can be made from (ValueError): leave out --dicom" in answer["error"]
    assert "Secret" not in err + json.dumps(answer)
    assert not (tmp_path / "out" / "chest").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected INPUT"),
        (["x", "--pacs", "https://pacs.example", "--study", "1.2"], "expected INPUT"),
        (["x", "--study", "1.2"], "are for --pacs"),
        (["x", "--allow-http"], "are for --pacs"),
        (["--pacs", "https://pacs.example"], "pass --study UID"),
        (["--pacs", "http://pacs.example", "--study", "1.2"], "--allow-http"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    predict: Callable[..., Any], arguments: list[str], message: str
) -> None:
    code, answer, _ = predict(*arguments)
    assert code == 2
    assert message in answer["error"]


def test_highdicom_missing_is_one_line_with_the_extra(
    tmp_path: Path, write_series: SeriesWriter, predict: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "chest")
    monkeypatch.setitem(sys.modules, "highdicom", None)
    code, answer, _ = predict(tmp_path / "chest", "--dicom")
    assert code == 2
    assert "needs highdicom" in answer["error"]
    assert "coronanet[dicom]" in answer["error"]
