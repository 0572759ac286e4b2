"""The one command for a GPU machine, run where there may be none: it measures what is left and says what is not."""

import json
import os
import shutil
import subprocess
from itertools import islice
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


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose Python only writes down what it is asked for; measurements leave a file.

    Where its folder has a file ``dies`` they die then, as when their time is over; ``tensorrt`` is where it works.
    """
    root = tmp_path / "checkout"
    (root / "benchmarks").mkdir(parents=True)
    shutil.copy(SCRIPT, root / "benchmarks")
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"""#!/bin/bash
        if [[ $1 = -c ]]; then [[ -e {root}/tensorrt ]]; exit; fi
        shift 3  # -P -m coronanet
        flock {root} printf '%s\\n' "$*" >> {root}/asked
        case "$*" in
        'bench engines'*)
            while [[ $1 != --out ]]; do shift; done
            echo '{{}}' > "$2"
            [[ ! -e {root}/dies ]] || {{ echo 'error: planted' >&2; exit 1; }} ;;
        'bench untrained'*) mkdir "$3" ;;
        'bench table'*) echo "the table of ${{@: -1}}" ;;
        *) echo '{{"trials": []}}' ;;
        esac
        """
    )
    python.chmod(0o755)
    return root


def run_checkout(root: Path, out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = ["bash", str(root / "benchmarks" / SCRIPT.name), "--out", str(out), "--task", TASK, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_was_measured_before_a_network_died_is_kept_and_shown(checkout: Path, tmp_path: Path) -> None:
    (checkout / "dies").touch()
    out = tmp_path / "out"
    done = run_checkout(checkout, out, "--bundles", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert f"the table of {out / TASK}.json" in done.stdout
    assert f"{TASK}: error: planted" in (out / "skipped.txt").read_text()


@pytest.mark.parametrize(("tensorrt", "given"), [(True, True), (True, False), (False, True), (False, False)])
def test_on_a_gpu_every_way_is_measured_in_fp16_and_fp32_and_in_int8_where_there_is_one(
    checkout: Path, tmp_path: Path, tensorrt: bool, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, out = tmp_path / "tools", tmp_path / "out"
    tools.mkdir()
    tool = tools / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho Planted H100\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    if tensorrt:
        (checkout / "tensorrt").touch()
    folder = tmp_path / "given" if given else out / "bundles"
    done = run_checkout(checkout, out, *(["--bundles", str(folder)] if given else []))
    assert done.returncode == 0, done.stderr
    assert (out / "gpu.csv").read_text() == "Planted H100\n"
    asked = iter((checkout / "asked").read_text().splitlines())
    assert list(islice(asked, 2)) == ["doctor --json", f"bench untrained {out}/unet32"]
    # What is made goes on beside each other.
    plans = " --tensorrt" if tensorrt else ""
    made = [f"export {out}/unet32 --fp16 --max-batch 32{plans} --out {out}/unet32-bundles"]
    if not given:
        made.append(f"export {TASK} --fp16 --max-batch 32{plans} --out {folder}")
    elif tensorrt:
        made.append(f"verify {folder}/{TASK}")
    assert sorted(islice(asked, len(made))) == made
    others = "fp32,int8" if tensorrt and given else "fp32"
    names = ("torch cuda", "torch cuda fp16", "torch cuda fp16 graph", "onnxruntime cuda fp16")
    measured = {
        "unet32": (f"{out}/unet32-bundles --task binary_segmentation", "fp32,fp16 --peers"),
        TASK: (f"{folder} --task {TASK}", " ".join(["fp16", *(f"--peer {name}" for name in names)])),
        f"{TASK}-{others.replace(',', '-')}": (f"{folder} --task {TASK}", others),
    }
    options = "--backend torch_cuda,onnxruntime_cuda,tensorrt --batch 1,8,32 --max-seconds 3 --no-fresh --precision"
    assert list(islice(asked, 3)) == [
        f"bench engines --bundles {what} --out {out}/{name}.json {options} {how}"
        for name, (what, how) in measured.items()
    ]
    files = [f"{out}/{name}.json" for name in measured]
    assert list(islice(asked, 4)) == [
        f"bench report {' '.join(files)} --out {out}/report.html",
        *(f"bench table {file}" for file in files),
    ]
    again = f"bench engines --bundles {folder} --task {TASK} --backend torch_cuda --precision fp16 --no-fresh"
    assert list(asked) == [
        *(f"{again} --no-roofline --repeats 50 --max-seconds 16 --out {out}/again-{side}.json" for side in "ab"),
        f"bench compare {out}/again-a.json {out}/again-b.json --out {out}/compare.json",
    ]
    skipped = (out / "skipped.txt").read_text()
    assert ("tensorrt: it is not here, or does not run on this GPU" in skipped) is not tensorrt
    assert ("int8: ranges need real slices" in skipped) is (tensorrt and not given)


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
