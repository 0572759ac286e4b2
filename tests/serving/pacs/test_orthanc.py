"""From a real PACS and back: fetched, predicted, stored, found there."""

import json
import socket
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from coronanet import cli
from coronanet.engines.base import EngineBase, Tensors, check_feeds
from coronanet.engines.predictor import IMAGE, ensemble_output
from coronanet.model.tasks import TASK_NAMES
from coronanet.serving import predict_run
from coronanet.serving.report import UNTOLD
from highdicom.seg import segread
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import JPEGLSLossless, generate_uid

if TYPE_CHECKING:
    from .conftest import Orthanc

SeriesWriter = Callable[..., list[Path]]
Credentials = Callable[[str, str], None]
GOOD = ("radiology", "a secret with spaces")


class FakeEnsemble(EngineBase):
    """Calls air lung and the rest lesion; what matters here is the way there and back."""

    def __init__(self) -> None:
        super().__init__((IMAGE,), tuple(ensemble_output(name) for name in TASK_NAMES), 4)

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(feeds, self.inputs, self.max_batch)
        image = feeds["image"]
        lung = ((image > -950) & (image < -400)).astype(np.uint8)
        types = (image > 0).astype(np.uint8) * 3
        return {
            "infected_probability": np.full((len(image), 1), 0.5, np.float32),
            "lesion_mask": lung,
            "lesion_types": types,
            "lung_mask": lung,
        }


@pytest.fixture
def predict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`coronanet predict --json` as typed, with a fake ensemble: exit code, the object on stdout, stderr."""

    @contextmanager
    def fake(*_: object) -> Generator[predict_run.Ensemble]:
        yield FakeEnsemble(), UNTOLD

    monkeypatch.setattr(predict_run, "local_ensemble", fake)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "work"))
    (tmp_path / "work").mkdir()

    def run(*arguments: object) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["predict", *map(str, arguments), "--out", str(tmp_path / "out"), "--json"])
        said = capsys.readouterr()
        assert "ecret" not in said.out + said.err
        # No image is left behind, whatever happened.
        assert list((tmp_path / "work").iterdir()) == []
        assert isinstance(stopped.value.code, int)
        return stopped.value.code, json.loads(said.out), said.err

    return run


def uids(paths: list[Path]) -> tuple[str, str]:
    dataset = dcmread(paths[0])
    return dataset.StudyInstanceUID, dataset.SeriesInstanceUID


def test_a_study_is_fetched_predicted_and_its_objects_are_found_in_the_pacs(
    tmp_path: Path,
    write_series: SeriesWriter,
    orthanc: "Orthanc",
    credentials: Credentials,
    predict: Callable[..., Any],
) -> None:
    study = generate_uid()
    soft = write_series(tmp_path / "a", StudyInstanceUID=study, ConvolutionKernel="B30f", SeriesNumber=1)
    lung = write_series(tmp_path / "b", StudyInstanceUID=study, ConvolutionKernel="B70f", SeriesNumber=2)
    orthanc.upload([*soft, *lung])
    credentials(*GOOD)
    code, answer, _ = predict("--pacs", orthanc.url, "--study", study)
    assert code == 0
    assert answer["pacs"] == {"stored": ["segmentation.dcm", "report-sr.dcm"], "error": ""}
    (result,) = answer["results"]
    folder = Path(result["folder"])
    assert folder.name.startswith("study-")
    assert any("its kernel is one for lungs" in note for note in result["report"]["input"]["notes"])
    assert study not in json.dumps(answer)
    (segmentation,) = [each for each in map(BytesIO, orthanc.objects("SEG")) if dcmread(each).StudyInstanceUID == study]
    (report,) = [each for each in map(BytesIO, orthanc.objects("SR")) if dcmread(each).StudyInstanceUID == study]
    local = segread(folder / "segmentation.dcm")
    segmentation.seek(0)
    there = segread(segmentation)
    assert there.SOPInstanceUID == local.SOPInstanceUID
    np.testing.assert_array_equal(there.pixel_array, local.pixel_array)
    source = {dcmread(path).SOPInstanceUID for path in lung}
    assert {uid for _, _, uid in there.get_source_image_uids()} == source
    report.seek(0)
    assert dcmread(report) == dcmread(folder / "report-sr.dcm")


def test_one_series_is_fetched_by_its_uid_as_it_is_stored(
    tmp_path: Path,
    write_series: SeriesWriter,
    orthanc: "Orthanc",
    credentials: Credentials,
    predict: Callable[..., Any],
) -> None:
    study = generate_uid()
    other = write_series(tmp_path / "a", StudyInstanceUID=study, SeriesNumber=1)
    wanted = write_series(tmp_path / "b", StudyInstanceUID=study, SeriesNumber=2)
    for path in wanted:
        dataset = dcmread(path)
        dataset.compress(JPEGLSLossless, generate_instance_uid=False)
        dataset.save_as(path)
    orthanc.upload([*other, *wanted])
    credentials(*GOOD)
    code, answer, _ = predict("--pacs", orthanc.url, "--series", uids(wanted)[1])
    assert code == 0
    (result,) = answer["results"]
    assert not any("series lie here" in note for note in result["report"]["input"]["notes"])
    reference = dcmread(Path(result["folder"]) / "segmentation.dcm").ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == uids(wanted)[1]


def test_another_series_of_a_study_is_chosen_by_its_number(
    tmp_path: Path,
    write_series: SeriesWriter,
    orthanc: "Orthanc",
    credentials: Credentials,
    predict: Callable[..., Any],
) -> None:
    study = generate_uid()
    first = write_series(tmp_path / "a", StudyInstanceUID=study, SeriesNumber=1, ImageType=["DERIVED", "SECONDARY"])
    orthanc.upload([*first, *write_series(tmp_path / "b", StudyInstanceUID=study, SeriesNumber=2)])
    credentials(*GOOD)
    _, answer, _ = predict("--pacs", orthanc.url, "--study", study, "--series", "1")
    reference = dcmread(Path(answer["results"][0]["folder"]) / "segmentation.dcm").ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == uids(first)[1]


def test_a_study_that_no_objects_can_be_made_of_is_reported_and_nothing_is_stored(
    tmp_path: Path,
    write_series: SeriesWriter,
    orthanc: "Orthanc",
    credentials: Credentials,
    predict: Callable[..., Any],
) -> None:
    def nowhere(_: int, dataset: FileDataset) -> None:
        del dataset.FrameOfReferenceUID

    study = generate_uid()
    orthanc.upload(write_series(tmp_path / "a", StudyInstanceUID=study, edit=nowhere))
    credentials(*GOOD)
    code, answer, _ = predict("--pacs", orthanc.url, "--study", study)
    assert code == 1
    assert answer["pacs"]["stored"] == []
    assert "nothing was stored: No DICOM objects were made" in answer["pacs"]["error"]
    assert "has no FrameOfReferenceUID" in answer["pacs"]["error"]
    (result,) = answer["results"]
    folder = Path(result["folder"])
    assert str(folder) in answer["pacs"]["error"]
    assert {file.name for file in folder.iterdir()} == set(result["report"]["files"])
    assert not (folder / "segmentation.dcm").exists()
    assert not any(dcmread(BytesIO(found)).StudyInstanceUID == study for found in orthanc.objects("SEG"))


@pytest.mark.parametrize("option", ["--study", "--series"])
def test_what_the_pacs_does_not_have_is_one_line(
    orthanc: "Orthanc", credentials: Credentials, predict: Callable[..., Any], option: str
) -> None:
    credentials(*GOOD)
    code, answer, _ = predict("--pacs", orthanc.url, option, "1.2.3.4")
    assert code == 2
    assert "has no" in answer["error"]


@pytest.mark.parametrize("given", [None, ("radiology", "wrong")])
def test_wrong_credentials_are_said_and_not_shown(
    orthanc: "Orthanc", credentials: Credentials, predict: Callable[..., Any], given: tuple[str, str] | None
) -> None:
    if given:
        credentials(*given)
    code, answer, err = predict("--pacs", orthanc.url, "--study", "1.2.3")
    assert code == 2
    assert "refuses these credentials" in answer["error"]
    assert "radiology" not in err + answer["error"]


def test_a_server_that_is_down_is_one_line(credentials: Credentials, predict: Callable[..., Any]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    code, answer, _ = predict("--pacs", f"http://127.0.0.1:{port}/dicom-web", "--study", "1.2.3")
    assert code == 2
    assert f"no connection to a PACS at 127.0.0.1:{port}" in answer["error"]
