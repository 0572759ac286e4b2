"""The one command for a GPU machine, run where there may be none: it measures what is left and says what is not."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from coronanet.benchmarks.report import read_engines
from coronanet.engines.bundle import Bundle
from coronanet.engines.nvidia import driver_cuda
from coronanet.model.tasks import TaskName

TASK: TaskName = "lung_segmentation"
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "run_gpu.sh"


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_shellcheck_finds_nothing() -> None:
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([tool, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["--what", "x"], ["--out"], ["--minutes", "0"], ["--minutes", "soon"]])
def test_wrong_use_prints_the_line_of_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stderr.strip() == "benchmarks/run_gpu.sh [--out DIR] [--bundles DIR] [--minutes N] [--task NAMES]"


def test_what_was_measured_before_a_network_died_is_kept_and_shown(tmp_path: Path) -> None:
    # A checkout whose every measurement writes its file and then dies, as when its time is over.
    root = tmp_path / "checkout"
    (root / "benchmarks").mkdir(parents=True)
    shutil.copy(SCRIPT, root / "benchmarks")
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        """#!/bin/bash
        case "$*" in
        *'bench engines'*)
            while [[ $1 != --out ]]; do shift; done
            echo '{}' > "$2"
            echo 'error: planted' >&2
            exit 1 ;;
        *'bench table'*) echo "the table of ${@: -1}" ;;
        *) echo '{"trials": []}' ;;
        esac
        """
    )
    python.chmod(0o755)
    script, out = root / "benchmarks" / SCRIPT.name, tmp_path / "out"
    command = ["bash", str(script), "--out", str(out), "--bundles", str(tmp_path), "--task", TASK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"the table of {out / TASK}.json" in done.stdout
    assert f"{TASK}: error: planted" in (out / "skipped.txt").read_text()


@pytest.mark.slow
@pytest.mark.skipif(driver_cuda() is not None, reason="a GPU is here, and this says what is skipped without one")
def test_without_a_gpu_it_measures_the_cpu_and_says_what_was_skipped(
    small_bundles: dict[TaskName, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its torch.compile would take half a minute.
    monkeypatch.setenv("CXX", "no-compiler")
    folder = small_bundles[TASK].path.parent
    done = run("--out", str(tmp_path / "out"), "--bundles", str(folder), "--task", TASK, "--minutes", "3")
    assert done.returncode == 0, done.stderr
    skipped = (tmp_path / "out" / "skipped.txt").read_text()
    assert "nvidia-smi finds no GPU here" in skipped
    report = read_engines(tmp_path / "out" / f"{TASK}.json")
    assert {result.case.batch for result in report.results} >= {1, 2}
    assert report.peers
    assert any("tensorrt" in item.what for item in report.skipped)
    for part in ("Corona-Net on this machine", "skipped:", "nvidia-smi finds no GPU here", "written: "):
        assert part in done.stdout
    compared = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert compared["comparisons"]
