"""The doctor: what is here, what is missing, and the command that brings it."""

import importlib.metadata
import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from coronanet import cli
from coronanet.engines import doctor
from coronanet.engines.doctor import (
    EXTRAS,
    VERBS,
    Diagnosis,
    Package,
    Verb,
    diagnose,
    examine,
    extra_remedy,
    find_problems,
    list_packages,
)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The versions that the doctor sees, in place of the real ones."""
    versions = {"numpy": "1.26.4"}
    monkeypatch.setattr(doctor, "installed_version", versions.get)
    return versions


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An embedded server with a stub for this Python, on a C library that fits it."""
    binary = tmp_path / "tritonserver" / "bin" / "tritonserver"
    binary.parent.mkdir(parents=True)
    binary.touch()
    stub = f"{doctor.sys.version_info.major}.{doctor.sys.version_info.minor}"
    (tmp_path / "tritonserver" / "python_backend_stubs" / stub).mkdir(parents=True)
    monkeypatch.setattr(doctor, "find_server", lambda: binary)
    monkeypatch.setattr(doctor.platform, "libc_ver", lambda: ("glibc", "2.36"))
    return binary


def test_packages_are_listed_by_extra_with_their_versions(installed: dict[str, str]) -> None:
    packages = list_packages(["numpy>=1.26", 'tritonclient[grpc,http]>=2.51; extra == "serve"'])
    remedy = "pip install 'coronanet[serve]'"
    assert packages == (Package("numpy", "core", "1.26.4", None), Package("tritonclient", "serve", None, remedy))


def test_the_extra_of_the_gpu_comes_only_where_the_other_onnxruntime_has_gone(installed: dict[str, str]) -> None:
    assert extra_remedy("gpu") == "pip install 'coronanet[gpu]'"
    installed["onnxruntime"] = "1.32.0"
    assert extra_remedy("gpu") == "pip uninstall onnxruntime, then pip install 'coronanet[gpu]'"


def test_a_verb_without_its_packages_names_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"torch": object()}
    monkeypatch.setattr(doctor.importlib.util, "find_spec", there.get)
    verb = diagnose("export", ("torch", "onnx", "onnxruntime"))
    assert verb.missing == ("onnx", "onnxruntime")
    assert verb.remedy == "pip install 'coronanet[cpu,train]'"


def test_a_verb_with_all_its_packages_needs_no_remedy() -> None:
    verb = diagnose("doctor", ("json",))
    assert (verb.missing, verb.remedy) == ((), None)


def test_every_module_that_a_verb_needs_has_an_extra() -> None:
    assert {module for modules in VERBS.values() for module in modules} == EXTRAS.keys()


def test_a_sound_environment_has_no_problems(installed: dict[str, str], server: Path) -> None:
    assert find_problems() == []


def test_both_onnxruntimes_together_are_a_problem(installed: dict[str, str], server: Path) -> None:
    installed.update({"onnxruntime": "1.32.0", "onnxruntime-gpu": "1.32.0"})
    (problem,) = find_problems()
    assert "coronanet[cpu]" in problem


def test_numpy_2_under_the_embedded_server_is_a_problem(installed: dict[str, str], server: Path) -> None:
    installed["numpy"] = "2.4.6"
    (problem,) = find_problems()
    assert "pip install 'numpy<2'" in problem


def test_a_python_without_a_stub_is_a_problem(
    installed: dict[str, str], server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stub,) = (server.parent.parent / "python_backend_stubs").iterdir()
    stub.rmdir()
    (problem,) = find_problems()
    assert "no stub for Python" in problem


@pytest.mark.parametrize(("library", "found"), [(("glibc", "2.31"), "glibc 2.31"), (("", ""), "another C library")])
def test_a_c_library_that_the_server_cannot_use_is_a_problem(
    installed: dict[str, str],
    server: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: tuple[str, str],
    found: str,
) -> None:
    monkeypatch.setattr(doctor.platform, "libc_ver", lambda: library)
    (problem,) = find_problems()
    assert f"needs glibc 2.35, here is {found}" in problem


@pytest.fixture(scope="module")
def diagnosis() -> Diagnosis:
    """What the doctor finds here, every engine really tried."""
    return examine()


@pytest.fixture
def found(diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> Diagnosis:
    """The same for the command line, found once."""
    monkeypatch.setattr("coronanet.engines.cli.examine", lambda: diagnosis)
    return diagnosis


def test_doctor_answers_in_json(found: Diagnosis, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor", "--json"])
    assert not stopped.value.code
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads(json.dumps(found.to_json()))
    assert answer.keys() == {
        "coronanet",
        "python",
        "machine",
        "nvidia",
        "packages",
        "triton_server",
        "trials",
        "verbs",
        "problems",
    }
    assert answer["trials"][0].keys() == {"backend", "precision", "verdict", "reason", "remedy"}
    extras = {item["extra"] for item in answer["packages"]}
    assert {"core", "train", "cpu", "gpu", "serve", "dicom", "sign", "dev"} <= extras


def test_everything_that_is_missing_has_its_command(diagnosis: Diagnosis) -> None:
    assert all((package.remedy is None) == (package.version is not None) for package in diagnosis.packages)
    assert all((trial.remedy is None) == (trial.verdict != "missing") for trial in diagnosis.trials)


def test_the_diagnosis_names_neither_host_nor_user(diagnosis: Diagnosis) -> None:
    text = json.dumps(diagnosis.to_json())
    assert socket.gethostname() not in text
    assert os.path.expanduser("~") not in text


def test_doctor_answers_people(found: Diagnosis, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["doctor"])
    assert not stopped.value.code
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("Machine", "Packages", "Engines", "Verbs", "numpy"))


def test_what_people_copy_from_the_tables_is_the_whole_command(
    diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = replace(diagnosis, packages=(), verbs=(Verb("train", ("torch",), "pip install 'coronanet[train]'"),))
    monkeypatch.setattr("coronanet.engines.cli.examine", lambda: nothing)
    with pytest.raises(SystemExit):
        cli.main(["doctor"])
    assert "pip install 'coronanet[train]'" in capsys.readouterr().out


def test_a_checkout_that_is_not_installed_asks_for_the_packages_of_one_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked() -> set[tuple[str, str]]:
        return {(package.name.lower(), package.extra) for package in doctor.list_packages(doctor.requirements())}

    installed = asked()

    def nobody(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", nobody)
    assert asked() == installed
    assert ("onnxruntime-gpu", "gpu") in installed
