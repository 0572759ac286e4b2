import getpass
import os
import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from coronanet.benchmarks import protocol as module
from coronanet.benchmarks.protocol import EngineCase, Method, Protocol, observe, observe_software
from coronanet.engines.places import ROOT
from coronanet.model.errors import UsageError


def changed(protocol: Protocol, part: str, **fields: Any) -> Protocol:
    return protocol.model_copy(update={part: getattr(protocol, part).model_copy(update=fields)})


def test_hash_is_stable_and_does_not_know_the_moment(protocol: Protocol, engine_case: EngineCase) -> None:
    later = changed(protocol, "moment", started="2000-01-01T00:00:00+00:00", load_average=99.0)
    assert later.sha256(engine_case) == protocol.sha256(engine_case)
    again = Protocol.model_validate_json(protocol.model_dump_json())
    assert again.sha256(engine_case) == protocol.sha256(engine_case)


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        ("method", {"transfers": "another"}),
        ("method", {"plan": module.Plan(repeats=11, limit_s=1.0)}),
        ("machine", {"cores": 4096}),
        ("software", {"bundles": {"classification": "f" * 64}}),
        ("software", {"source": "another"}),
    ],
)
def test_hash_knows_method_machine_and_software(
    protocol: Protocol, engine_case: EngineCase, part: str, fields: dict[str, Any]
) -> None:
    assert changed(protocol, part, **fields).sha256(engine_case) != protocol.sha256(engine_case)


@pytest.mark.parametrize("fields", [{"batch": 2}, {"precision": "fp32"}, {"backend": "openvino"}, {"threads": 1}])
def test_hash_knows_the_case(protocol: Protocol, engine_case: EngineCase, fields: dict[str, Any]) -> None:
    assert protocol.sha256(engine_case.model_copy(update=fields)) != protocol.sha256(engine_case)


def test_what_ran_and_where_is_there(method: Method) -> None:
    seen = observe(method, {})
    assert seen.machine.cpu
    assert seen.machine.cores >= 1
    assert seen.machine.memory_bytes > 2**28
    assert seen.software.packages["numpy"].startswith(("1.", "2."))
    assert seen.moment.started.endswith("+00:00")


def test_no_host_user_or_folder_is_named(protocol: Protocol) -> None:
    text = protocol.model_dump_json()
    for name in (platform.node(), f"/{getpass.getuser()}", str(ROOT), str(Path.home())):
        assert name not in text


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_source_is_the_commit_of_a_checkout_marked_where_it_has_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("CORONANET_SOURCE", raising=False)
    version = observe_software({}).source
    assert version[0].isdigit()
    git(tmp_path, "init", "--quiet")
    assert observe_software({}).source == f"{version}?"
    git(tmp_path, "commit", "--allow-empty", "--quiet", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert observe_software({}).source == commit
    (tmp_path / "new.txt").write_text("changed")
    assert observe_software({}).source == f"{commit}+"


def test_source_of_a_copy_without_git_is_what_the_variable_says_and_nothing_but_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    for told in ("a1b2c3d4" * 5, f"{'a1b2c3d4' * 5}+"):
        monkeypatch.setenv("CORONANET_SOURCE", told)
        assert observe_software({}).source == told
    monkeypatch.setenv("CORONANET_SOURCE", "/home/someone/corona-net")
    with pytest.raises(UsageError, match="CORONANET_SOURCE: expected the 40 hex digits of a commit"):
        observe_software({})
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--allow-empty", "--quiet", "-m", "first")
    assert observe_software({}).source == git(tmp_path, "rev-parse", "HEAD"), "git knows better"


@pytest.mark.parametrize("answer", ["exit 128", "exec sleep 60"])
def test_a_checkout_of_which_git_does_not_say_that_it_is_unchanged_is_not_recorded_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    tool = tools / "git"
    tool.write_text(f"#!/bin/sh\ncase $* in\n*rev-parse*) echo 1234 ;;\n*) {answer} ;;\nesac\n")
    tool.chmod(0o755)
    (tmp_path / ".git").mkdir()

    def limited(command: list[str], *, timeout: float, **options: Any) -> Any:
        """Only what never answers runs out of time, however busy the machine is."""
        never = "status" in command and "sleep" in answer
        return subprocess.run(command, check=options.pop("check"), timeout=0.2 if never else timeout, **options)

    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=limited, TimeoutExpired=subprocess.TimeoutExpired))
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    assert observe_software({}).source == "1234?"


def test_a_checkout_without_git_has_no_version_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("CORONANET_SOURCE", raising=False)
    version = observe_software({}).source
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert observe_software({}).source == f"{version}?"
