"""The demo: the whole way once, through the real Triton server, with short measurements."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from coronanet import cli, demo
from coronanet.engines import ranking
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.model.phantom import make_phantom
from coronanet.model.tasks import TaskName
from coronanet.serving import repository
from nibabel.nifti1 import Nifti1Image


def _shared_memory() -> set[Path]:
    """The regions of servers that this process started: the demo's, and those of other tests that still run."""
    return set(Path("/dev/shm").glob(f"coronanet-{os.getpid()}-*"))


def _exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    return int(stopped.value.code or 0)


@pytest.fixture
def short(small_bundles: dict[TaskName, Bundle], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing but the phantom at hand, small networks, a repository of its own, engines given, few calls."""

    def choose(bundles: Mapping[TaskName, Bundle], **_: object) -> dict[TaskName, Choice]:
        return dict.fromkeys(bundles, Choice("onnxruntime", "fp32"))

    monkeypatch.setattr(cli, "provide_bundles", lambda _: small_bundles)
    monkeypatch.setattr(demo, "data_home", lambda _: None)
    monkeypatch.setattr(ranking, "choose", choose)
    monkeypatch.setattr(repository, "repository_home", lambda *_, **__: tmp_path / "triton_repo")
    for name, value in (("ENGINE_REPEATS", 3), ("REQUESTS", 4), ("WARM_UP_CALLS", 2), ("REQUEST_SECONDS", 5.0)):
        monkeypatch.setattr(demo, name, value)


@pytest.mark.usefixtures("short")
def test_the_demo_serves_the_phantom_and_leaves_results_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _shared_memory()
    assert _exit_code(["demo", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert _shared_memory() <= before
    answer = json.loads(capsys.readouterr().out)
    (result,) = answer["results"]
    assert result["synthetic"]
    folder = tmp_path / "out" / "synthetic_phantom"
    assert Path(result["folder"]) == folder
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for model in report["models"]:
        assert model["backend"].endswith(" on triton"), "it was the server that decided, and it told on what"
        assert re.fullmatch("[0-9a-f]{64}", model["bundle_sha256"])
    assert (folder / "overlay.png").stat().st_size > 10_000
    shape = Nifti1Image.from_filename(folder / "lesion_types.nii.gz").shape
    assert shape == (report["input"]["columns"], report["input"]["rows"], report["input"]["slices"])
    serving = json.loads(Path(answer["benchmarks"]["serving"]).read_text(encoding="utf-8"))
    assert {case["case"]["target"] for case in serving["results"]} == {"served", "in_process"}
    assert all(not case["errors"] for case in serving["results"])
    masks = [item["equal_share"] for item in serving["agreement"] if item["equal_share"] is not None]
    assert masks == [1.0, 1.0, 1.0]
    assert "Served, closed loop" in Path(answer["benchmarks"]["page"]).read_text(encoding="utf-8")
    assert _exit_code(["bench", "table", answer["benchmarks"]["engines"], answer["benchmarks"]["serving"]]) == 0
    table = capsys.readouterr().out
    assert all(word in table for word in ("multiclass", "onnxruntime", "ensemble", "p99 ms", "slices/s"))


@pytest.mark.usefixtures("short")
def test_an_unreadable_study_before_a_good_one_is_exit_1_and_the_good_one_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = tmp_path / "good.nii.gz", tmp_path / "bad.nii.gz"
    Nifti1Image(make_phantom().image[:2].transpose(2, 1, 0), np.eye(4)).to_filename(good)
    bad.write_bytes(b"not NIfTI")
    assert _exit_code(["demo", str(bad), str(good), "--out", str(tmp_path / "out"), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert [Path(result["folder"]).name for result in answer["results"]] == ["good"]
    (failure,) = answer["failures"]
    assert "bad.nii.gz" in failure


@pytest.mark.parametrize("arguments", [["no-such-file.nii.gz"], ["slice.png"], ["no-such-file.nii.gz", "slice.png"]])
def test_unreadable_studies_alone_end_the_demo_before_anything_is_exported(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slice.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert _exit_code(["demo", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
