"""`coronanet export` and `coronanet verify` as a user and a program see them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from coronanet.cli import main
from coronanet.engines.bundle import Bundle
from coronanet.engines.ranking import Ranking, machine, read_ranking, write_ranking
from coronanet.export import cli
from coronanet.export.shipped import PRETRAINED
from coronanet.model.tasks import TaskName

SMALLEST = "lung_segmentation"


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    code = stopped.value.code
    assert isinstance(code, int)
    return code


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no data is: the gates look at the phantom."""
    monkeypatch.setattr("coronanet.engines.slices.data_home", lambda option: option)


@pytest.mark.usefixtures("synthetic")
def test_export_says_in_one_object_what_it_made_and_proved(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_source, tmp_path / "pretrained" / SMALLEST)
    monkeypatch.setattr(cli, "PRETRAINED", tmp_path / "pretrained")
    assert run("export", SMALLEST, "--fp16", "--out", str(tmp_path), "--json") == 0
    captured = capsys.readouterr()
    answer: dict[str, Any] = json.loads(captured.out)
    (made,) = answer["bundles"]
    assert made["name"] == SMALLEST
    graphs = {file["path"]: file["evidence"] for file in made["files"] if "evidence" in file}
    assert {path: evidence["verdict"] for path, evidence in graphs.items()} == dict.fromkeys(graphs, "passed")
    assert graphs["network.fp16.onnx"]["images"] == "synthetic phantom"
    assert "no real CT: parity runs on the synthetic phantom" in captured.err
    assert made["ranking"][0]["verdict"] == "passed"
    ranking = read_ranking(Bundle.open(tmp_path / SMALLEST))
    assert ranking is not None
    assert ranking.best.backend == made["ranking"][0]["backend"]


@pytest.mark.usefixtures("synthetic")
def test_export_takes_a_folder_of_own_weights(tiny_source: Path, tmp_path: Path) -> None:
    assert run("export", str(tiny_source), "--out", str(tmp_path / "bundles")) == 0
    assert Bundle.open(tmp_path / "bundles" / SMALLEST).manifest.graph("network", "fp16") is None


@pytest.mark.usefixtures("synthetic")
def test_int8_without_training_slices_is_wrong_use_and_writes_nothing(
    tiny_source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", str(tiny_source), "--int8", "--out", str(tmp_path / "bundles"), "--json") == 2
    assert (
        "int8 needs training slices for its ranges and there are none" in json.loads(capsys.readouterr().out)["error"]
    )
    assert not (tmp_path / "bundles").exists()


def test_own_weights_never_go_where_those_that_ship_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(PRETRAINED / SMALLEST, tmp_path / "mine")
    assert run("export", str(tmp_path / "mine")) == 2
    assert "export with --out DIR, then use --bundles DIR" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", SMALLEST, "--out", "/proc/nowhere", "--json") == 2
    assert "cannot use /proc/nowhere" in json.loads(capsys.readouterr().out)["error"]


def test_export_of_an_unknown_model_lists_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("export", "cooking") == 2
    assert "no model 'cooking': expected classification, binary_segmentation" in capsys.readouterr().err


def test_verify_proves_a_bundle_again_on_this_machine(
    bundles: dict[TaskName, Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundles[SMALLEST]
    assert run("verify", str(bundle.path), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["verdict"] == "passed"
    assert answer["sha256"] == bundle.sha256


@pytest.mark.usefixtures("synthetic")
def test_verify_of_a_bundle_that_decides_otherwise_here_is_one_object_and_exit_code_1(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path))
    write_ranking(Ranking(bundle_sha256=tiny_bundle.sha256, machine=machine(), ways=()))
    assert read_ranking(tiny_bundle) is not None
    monkeypatch.setattr("coronanet.engines.parity.PIXEL_TOLERANCE", -1.0)
    assert run("verify", str(tiny_bundle.path), "--json") == 1
    assert read_ranking(tiny_bundle) is None, "what was fastest may be what is refused"
    captured = capsys.readouterr()
    assert json.loads(captured.out)["verdict"] == "refused"
    assert "error: preprocess.onnx does not pass parity: pixels differ" in captured.err


def test_verify_of_a_tampered_bundle_is_one_line_and_exit_code_1(
    bundles: dict[TaskName, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / SMALLEST
    shutil.copytree(bundles[SMALLEST].path, copy)
    card = (copy / "card.json").read_text().replace('"threshold": 0.5', '"threshold": 0.1')
    (copy / "card.json").write_text(card)
    assert run("verify", str(copy)) == 1
    error = capsys.readouterr().err.strip()
    assert "card.json was changed after export" in error
    assert "\n" not in error


def test_verify_of_a_folder_that_is_no_bundle_is_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", str(tmp_path)) == 2
    assert "no bundle at" in capsys.readouterr().err
