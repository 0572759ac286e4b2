"""What a user installs: built from the sdist, into an environment with the core packages alone."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NOT_PACKAGES = {"build", "dist", "docs", "out", "bundles", "runs", "tests", "triton_repo"}
HEAVY = (
    *("torch", "monai", "lightning", "onnx", "onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "cuda"),
    *("tritonclient", "pydicom", "cryptography"),
)


@dataclass(frozen=True)
class Distribution:
    """The sdist, the wheel built from it, and an environment that has the wheel and the core packages."""

    sdist: Path
    wheel: Path
    python: Path


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    work = tmp_path_factory.mktemp("packaging")
    tree = work / "tree"
    shutil.copytree(ROOT, tree, ignore=_ignore)
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(work / "dist"), str(tree))
    (sdist,) = (work / "dist").glob("*.tar.gz")
    (wheel,) = (work / "dist").glob("*.whl")
    environment = work / "environment"
    _run(sys.executable, "-m", "venv", "--without-pip", str(environment))
    (packages,) = environment.glob("lib/python*/site-packages")
    _link_core(packages)
    python = environment / "bin" / "python"
    # `pip --python` runs pip inside the other environment, so pip's own deprecations are not ours to fail on.
    _run(sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    return Distribution(sdist, wheel, python)


def test_packages_in_pyproject_are_the_folders_of_the_source() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert sorted(declared) == sorted(_source_packages())


def test_the_wheel_holds_one_package_with_all_its_modules_and_data(distribution: Distribution) -> None:
    with zipfile.ZipFile(distribution.wheel) as wheel:
        names = set(wheel.namelist())
    assert {name.split("/")[0] for name in names} == {"coronanet", f"coronanet-{_version()}.dist-info"}
    assert {f"coronanet/{path}" for path in _source_files()} <= names


def test_the_sdist_holds_the_source_and_neither_tests_nor_pictures(distribution: Distribution) -> None:
    with tarfile.open(distribution.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert _source_files() <= names
    assert not [name for name in names if name.split("/")[0] in {"tests", "docs", ".ci", "out", "triton_repo"}]


@pytest.mark.parametrize("command", [["--help"], ["doctor"], ["export", "--help"], ["predict", "--help"]])
def test_the_wheel_answers_from_the_root_folder_with_the_core_packages(
    distribution: Distribution, command: list[str]
) -> None:
    done = _run(str(distribution.python.parent / "coronanet"), *command, cwd="/")
    assert done.stdout


def test_doctor_in_a_bare_environment_names_the_extras_that_are_missing(distribution: Distribution) -> None:
    done = _run(str(distribution.python.parent / "coronanet"), "doctor", "--json", cwd="/")
    verbs = {verb["name"]: verb for verb in json.loads(done.stdout)["verbs"]}
    assert verbs["doctor"] == {"name": "doctor", "missing": [], "remedy": None}
    assert "torch" in verbs["export"]["missing"]
    assert verbs["export"]["remedy"] == "pip install 'coronanet[cpu,train]'"


def test_the_command_line_imports_no_heavy_package() -> None:
    program = f"import coronanet.cli, coronanet.engines, sys; print(*sys.modules.keys() & {set(HEAVY)!r})"
    assert _run(sys.executable, "-c", program, cwd="/").stdout.split() == []


@pytest.mark.parametrize("name", ["train", "cpu", "rtx", "serve", "dicom", "sign", "dev"])
def test_every_package_of_the_environment_is_locked(name: str) -> None:
    locked = {
        Requirement(line).name.lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert {Requirement(text).name.lower().replace("_", "-") for text in extras[name]} <= locked


def _source_packages() -> Iterator[str]:
    for init in ROOT.rglob("__init__.py"):
        parts = init.parent.relative_to(ROOT).parts
        if not parts or (parts[0] not in NOT_PACKAGES and not parts[0].startswith(".")):
            yield ".".join(("coronanet", *parts))


def _source_files() -> set[str]:
    """What must be installed: every module, and the data that stands in the packages."""
    folders = [ROOT.joinpath(*package.split(".")[1:]) for package in _source_packages()]
    data = (ROOT / "model" / "pretrained").rglob("*")
    files = [file for folder in folders for file in folder.glob("*.py")]
    files += [
        ROOT / "model" / "risk.toml",
        ROOT / "serving" / "gate.json",
        ROOT / "serving" / "templates" / "report.html",
    ]
    files += [file for file in data if file.is_file() and "__pycache__" not in file.parts]
    return {str(file.relative_to(ROOT)) for file in (*files, ROOT / "py.typed")}


def _ignore(folder: str, names: list[str]) -> set[str]:
    """Leave out what git does, so that the build sees what a clone has."""
    made = {"__pycache__", ".venv", ".git", "out", "bundles", "runs", "build", "dist"}
    return {name for name in names if name in made or name.endswith((".egg-info", "_cache"))}


def _link_core(packages: Path) -> None:
    """Link the core packages of this environment, and what they need, into another one."""
    waiting = [Requirement(text) for text in importlib.metadata.requires("coronanet") or []]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if requirement.name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(requirement.name)
        found = importlib.metadata.distribution(requirement.name)
        waiting += [Requirement(text) for text in found.requires or []]
        tops = {Path(str(file)).parts[0] for file in found.files or [] if not str(file).startswith("..")}
        for top in tops - {"__pycache__"}:
            (packages / top).symlink_to(str(found.locate_file(top)))


def _version() -> str:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def _run(*command: str, cwd: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command that must succeed; what it said is in the failure."""
    quiet = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CORONANET_"))}
    done = subprocess.run(command, cwd=cwd, env=quiet, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done
