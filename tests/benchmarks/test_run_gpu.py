"""The one command for a GPU machine, run where there may be none: it measures what is left and says what is not."""

import json
import os
import shutil
import subprocess
import sys
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
    """A checkout whose Python only writes down what it is asked for; exports leave a bundle, measurements a file.

    Where its folder has a file ``dies`` measurements die then, as when their time is over; ``tensorrt`` is where it
    works, ``refused`` has the options that no export passes its gates with.
    """
    root = tmp_path / "checkout"
    (root / "benchmarks").mkdir(parents=True)
    shutil.copy(SCRIPT, root / "benchmarks")
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"""#!/bin/bash
        if [[ $1 = -c ]]; then [[ -e {root}/tensorrt ]]; exit; fi
        if [[ $2 = -c && $3 = *'import importlib'* ]]; then exit; fi
        if [[ $2 = -c ]]; then set -- -P -m coronanet rank "$4"; fi
        shift 3  # -P -m coronanet
        flock {root} printf '%s\\n' "$*" >> {root}/asked
        case "$*" in
        export*)
            for option in $(cat {root}/refused 2> /dev/null); do
                [[ "$*" != *$option* ]] || {{ echo "error: $option refused" >&2; exit 1; }}
            done
            bundle=${{@: -1}}/$2
            [[ $2 != */unet32 ]] || bundle=${{@: -1}}/binary_segmentation
            mkdir -p "$bundle"
            touch "$bundle/manifest.json" ;;
        'bench engines'*)
            while [[ $1 != --out ]]; do shift; done
            echo '{{}}' > "$2"
            [[ ! -e {root}/dies ]] || {{ echo 'error: planted' >&2; exit 1; }} ;;
        'bench untrained'*) mkdir "$3" && touch "$3/card.json" ;;
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


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder with a bundle of the task, as ``--bundles`` takes it."""
    (tmp_path / "given" / TASK).mkdir(parents=True)
    (tmp_path / "given" / TASK / "manifest.json").touch()
    return tmp_path / "given"


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose nvidia-smi, the path given, tells of a GPU."""
    tool = tmp_path / "tools" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho Planted H100\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    return tool


def test_what_was_measured_before_a_network_died_is_kept_and_shown(checkout: Path, given: Path, tmp_path: Path) -> None:
    (checkout / "dies").touch()
    out = tmp_path / "out"
    done = run_checkout(checkout, out, "--bundles", str(given))
    assert done.returncode == 0, done.stderr
    assert f"the table of {out / TASK}.json" in done.stdout
    assert f"{TASK}: error: planted" in (out / "skipped.txt").read_text()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("tensorrt", "own"), [(True, True), (True, False), (False, True), (False, False)])
def test_on_a_gpu_fp16_comes_first_then_fp32_and_int8_where_there_is_one_and_what_compiles_last(
    checkout: Path, given: Path, tmp_path: Path, tensorrt: bool, own: bool
) -> None:
    out = tmp_path / "out"
    if tensorrt:
        (checkout / "tensorrt").touch()
    folder = given if own else out / "bundles"
    done = run_checkout(checkout, out, *(["--bundles", str(folder)] if own else []))
    assert done.returncode == 0, done.stderr
    assert (out / "gpu.csv").read_text() == "Planted H100\n"
    asked = iter((checkout / "asked").read_text().splitlines())
    assert list(islice(asked, 2)) == ["doctor --json", f"bench untrained {out}/unet32"]
    # What is made goes on beside each other.
    plans = " --tensorrt" if tensorrt else ""
    made = [f"export {out}/unet32 --fp16{plans} --max-batch 32 --out {out}/unet32-bundles"]
    if not own:
        made.append(f"export {TASK} --fp16{plans} --max-batch 32 --out {folder}")
    else:
        made += [f"rank {folder}/{TASK}", *([f"verify {folder}/{TASK}"] if tensorrt else [])]
    assert sorted(islice(asked, len(made))) == made
    others = "fp32,int8" if tensorrt and own else "fp32"
    names = ("torch cuda", "torch cuda fp16", "torch cuda fp16 graph", "onnxruntime cuda fp16")
    peers = " ".join(f"--peer {name}" for name in names)
    unet32 = f"{out}/unet32-bundles --task binary_segmentation"
    measured = {
        "unet32": (unet32, f"fp32,fp16 {peers} --peer onnxruntime cuda"),
        TASK: (f"{folder} --task {TASK}", f"fp16 {peers}"),
        f"{TASK}-{others.replace(',', '-')}": (f"{folder} --task {TASK}", f"{others} --no-roofline"),
        "unet32-compile": (unet32, "fp16 --peer torch.compile cuda fp16 --no-roofline"),
    }
    options = "--backend torch_cuda,onnxruntime_cuda,tensorrt --batch 32,1,8 --max-seconds 3 --no-fresh --precision"
    assert list(islice(asked, len(measured))) == [
        f"bench engines --bundles {what} --out {out}/{name}.json {options} {how}"
        for name, (what, how) in measured.items()
    ]
    files = [f"{out}/{name}.json" for name in measured]
    again = f"bench engines --bundles {unet32} --backend torch_cuda --precision fp16 --no-fresh --no-roofline"
    assert list(asked) == [
        f"bench report {' '.join(files)} --out {out}/report.html",
        *(f"{again} --repeats 50 --max-seconds 8 --out {out}/again-{side}.json" for side in "ab"),
        f"bench compare {out}/again-a.json {out}/again-b.json --out {out}/compare.json",
        *(f"bench table {file}" for file in files),
    ]
    skipped = (out / "skipped.txt").read_text()
    assert ("tensorrt: it is not here, or does not run on this GPU" in skipped) is not tensorrt
    assert ("int8: ranges need real slices" in skipped) is (tensorrt and not own)


@pytest.mark.usefixtures("gpu")
def test_what_has_no_bundle_is_skipped_and_not_exported_under_its_name(checkout: Path, tmp_path: Path) -> None:
    (checkout / "refused").write_text(f"unet32-bundles {tmp_path}/out/bundles")
    out = tmp_path / "out"
    done = run_checkout(checkout, out)
    assert done.returncode == 1
    assert "bench engines" not in (checkout / "asked").read_text()
    skipped = (out / "skipped.txt").read_text()
    assert f"unet32: no bundle in {out}/unet32-bundles/binary_segmentation" in skipped
    assert f"{TASK}: no bundle in {out}/bundles/{TASK}" in skipped


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    ("refused", "tried"),
    [
        ("--tensorrt", ["--fp16 --tensorrt ", "--fp16 "]),
        ("--fp16", ["--fp16 --tensorrt ", "--fp16 ", ""]),
    ],
)
def test_what_a_gate_refuses_is_left_out_and_the_rest_exported_and_measured(
    checkout: Path, tmp_path: Path, refused: str, tried: list[str]
) -> None:
    (checkout / "tensorrt").touch()
    (checkout / "refused").write_text(refused)
    out = tmp_path / "out"
    done = run_checkout(checkout, out)
    assert done.returncode == 0, done.stderr
    asked = (checkout / "asked").read_text().splitlines()
    assert [line for line in asked if line.startswith(f"export {TASK}")] == [
        f"export {TASK} {options}--max-batch 32 --out {out}/bundles" for options in tried
    ]
    assert f"export-{TASK}: error: {refused} refused" in (out / "skipped.txt").read_text()
    assert {f"{out}/unet32.json", f"{out}/{TASK}.json"} <= {str(path) for path in out.glob("*.json")}


def test_an_nvidia_smi_that_does_not_tell_costs_its_file_alone(
    checkout: Path, gpu: Path, given: Path, tmp_path: Path
) -> None:
    gpu.write_text("#!/bin/sh\ncase $* in *query*) exit 9 ;; esac\n")
    out = tmp_path / "out"
    done = run_checkout(checkout, out, "--bundles", str(given))
    assert done.returncode == 0, done.stderr
    assert "gpu.csv: nvidia-smi does not answer" in (out / "skipped.txt").read_text()
    assert (out / "unet32.json").exists()


def test_packages_that_are_missing_are_all_named_before_anything_is_run(checkout: Path, tmp_path: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    # Without its packages.
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    done = run_checkout(checkout, tmp_path / "out")
    assert done.returncode == 2
    named = [line.split(":")[0].strip() for line in done.stderr.splitlines() if line.startswith("  ")]
    assert {"typer", "pydantic", "torch", "onnx", "onnxruntime.quantization"} <= set(named)
    assert "nothing was run" in done.stderr


@pytest.mark.parametrize(("told", "code"), [("a1b2c3d4" * 5, 0), ("main", 2)])
def test_a_copy_without_git_is_told_its_commit(
    checkout: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, code: int
) -> None:
    monkeypatch.setenv("CORONANET_SOURCE", told)
    done = run_checkout(checkout, tmp_path / "out", "--bundles", str(given))
    assert done.returncode == code
    assert "source: no .git here" not in done.stderr
    monkeypatch.delenv("CORONANET_SOURCE")
    assert "source: no .git here" in run_checkout(checkout, tmp_path / "out", "--bundles", str(given)).stderr


@pytest.mark.slow
@pytest.mark.skipif(driver_cuda() is not None, reason="a GPU is here, and this says what is skipped without one")
def test_without_a_gpu_it_measures_the_cpu_and_says_what_was_skipped(
    small_bundles: dict[TaskName, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its torch.compile would take half a minute.
    monkeypatch.setenv("CXX", "no-compiler")
    folder = small_bundles[TASK].path.parent
    done = run("--out", str(tmp_path / "out"), "--bundles", str(folder), "--task", TASK, "--minutes", "10")
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
