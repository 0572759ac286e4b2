"""`coronanet repository` as a linter, and what it says of a target."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coronanet import cli
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.model.tasks import TaskName
from coronanet.serving.linter import lint_repository
from coronanet.serving.repository import fill_repository, read_index
from coronanet.serving.triton_config import TARGETS

from .conftest import with_plan

Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `coronanet repository` with ``--json``: exit code, the object, and what a person reads."""

    def call(*arguments: str | Path) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(["repository", *map(str, arguments), "--json"])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), json.loads(captured.out), captured.err

    return call


def test_what_ships_has_no_fault(repository: Path, run: Run) -> None:
    code, answer, said = run("--check", repository)
    assert (code, answer["faults"]) == (0, [])
    assert answer["targets"] == list(TARGETS)
    assert len(answer["without_plans"]["tensorrt"]) == 4
    assert "not for tensorrt: no TensorRT plan of binary_segmentation" in said


def test_what_ships_has_no_fault_in_any_target_once_it_has_plans(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path: Path
) -> None:
    planned: dict[TaskName, Bundle] = {task: with_plan(bundle, tmp_path) for task, bundle in bundles.items()}
    out = tmp_path / "triton_repo"
    fill_repository(planned, out, choices, triage_threshold=0.5, response_cache_mib=1)
    assert {target: lint_repository(out, None if target == "embedded" else target) for target in TARGETS} == {
        target: [] for target in TARGETS
    }


def test_a_fault_is_exit_1_and_says_for_which_targets(repository: Path, tmp_path: Path, run: Run) -> None:
    broken = shutil.copytree(repository, tmp_path / "broken")
    (broken / "decide_lung_segmentation" / "configs" / "onnxruntime.pbtxt").unlink()
    config = broken / "coronanet" / "config.pbtxt"
    config.write_text(config.read_text().replace('model_name: "preprocess"', 'model_name: "preproces"'))
    code, answer, said = run("--check", broken)
    assert code == 1
    assert {(fault["rule"], *fault["targets"]) for fault in answer["faults"]} == {
        ("missing-model", "embedded"), ("missing-target", "onnxruntime"), ("changed-file", *TARGETS),
    }  # fmt: skip
    assert 'write model_name: "preprocess" [missing-model]' in said


def test_a_target_that_was_asked_for_must_be_there(repository: Path, run: Run) -> None:
    code, answer, said = run("--check", repository, "--target", "tensorrt")
    assert code == 1
    assert {fault["rule"] for fault in answer["faults"]} == {"no-plan"}
    assert "coronanet export --fp16 --tensorrt" in said


@pytest.fixture
def ours(bundles: dict[TaskName, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "provide_bundles", lambda _, key: {"classification": bundles["classification"]})


def test_filling_says_how_to_start_it(ours: None, tmp_path: Path, run: Run) -> None:
    for target in ([], ["--target", "embedded"]):
        code, answer, _ = run("--out", tmp_path / "r", *target)
        assert (code, answer["start"]) == (0, f"coronanet serve --repository {tmp_path / 'r'}")
    code, answer, _ = run("--out", tmp_path / "r", "--target", "onnxruntime", "--response-cache", "16")
    assert code == 0
    assert answer["start"].startswith("docker run ")
    assert "--cache-config=local,size=16777216" in answer["start"]
    assert read_index(tmp_path / "r").response_cache_mib == 16
    code, answer, _ = run("--out", tmp_path / "r", "--target", "tensorrt")
    assert (code, answer["start"]) == (1, None)
    assert [fault["model"] for fault in answer["faults"]] == ["classification"]


def test_a_model_that_stood_there_before_is_named_once_the_folder_is_filled(
    ours: None, tmp_path: Path, run: Run
) -> None:
    (tmp_path / "r" / "theirs" / "1").mkdir(parents=True)
    code, answer, said = run("--out", tmp_path / "r")
    assert (code, answer["start"], [fault["file"] for fault in answer["faults"]]) == (1, None, ["theirs"])
    assert "theirs: was not put there by `coronanet repository`" in said
    assert (tmp_path / "r" / "theirs" / "1").is_dir()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--target", "gpu"], "expected --target embedded or onnxruntime or tensorrt, got gpu"),
        (["somewhere"], "to fill it, write --out somewhere"),
        (["--check", "nowhere"], "no folder nowhere"),
    ],
)
def test_wrong_use_is_exit_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["repository", *arguments])
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
