"""`coronanet serve` and `coronanet repository` as a person or a program runs them."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coronanet import cli
from coronanet.engines.bundle import Bundle
from coronanet.engines.keys import PublicKey
from coronanet.engines.triton_engine import TritonEngine
from coronanet.model.errors import RefusedError
from coronanet.model.tasks import TaskName
from coronanet.serving import repository as repository_module
from coronanet.serving.addresses import Ports
from coronanet.serving.repository import read_index
from coronanet.serving.server import TritonServer

from .conftest import needs_ipv6


def _arguments(repository: Path, ports: Ports) -> list[str]:
    given = {"--repository": repository, "--http-port": ports.http, "--grpc-port": ports.grpc}
    return ["serve", *(str(part) for pair in given.items() for part in pair), "--metrics-port", str(ports.metrics)]


@contextmanager
def _serving(repository: Path, *options: str) -> Generator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`coronanet serve --json` on ports of its own choice, and what it said when it was ready."""
    arguments = _arguments(repository, Ports(0, 0, 0))
    command = [sys.executable, "-m", "coronanet", *arguments, "--json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("}"):
                    break
            yield process, json.loads("".join(lines))
        finally:
            process.kill()


def _exit(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    return int(stopped.value.code or 0)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_when_it_says_ready_and_stops_cleanly(small_repository: Path, number: signal.Signals) -> None:
    with _serving(small_repository) as (process, ready):
        with TritonEngine(ready["grpc"], model=ready["model"]) as engine:
            answer = engine.infer({"image": np.zeros((1, 64, 64), np.int16)})
        assert answer.keys() == {"infected_probability"}
        ports = {ready[name].rpartition(":")[2] for name in ("grpc", "http", "metrics")}
        assert len(ports) == 3
        assert "0" not in ports
        events = [json.loads(line)["event"] for line in Path(ready["events"]).read_text().splitlines()]
        assert events[-2:] == ["starting", "ready"]
        with urllib.request.urlopen(f"http://{ready['health']}/health/ready", timeout=10) as health:
            assert json.loads(health.read()) == {"ok": True, "reason": ""}
        with urllib.request.urlopen(f"http://{ready['health']}/metrics", timeout=10) as metrics:
            assert b'coronanet_bundle_info{sha256="' in metrics.read()
        process.send_signal(number)
        assert process.wait(30) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
    assert _is_gone(ready["pid"])
    assert not [name for name in os.listdir("/dev/shm") if name.startswith(f"coronanet-{process.pid}-")]


@needs_ipv6
def test_every_port_of_it_answers_on_ipv6(small_repository: Path, tmp_path: Path) -> None:
    with _serving(small_repository, "--host", "::1", "--log", str(tmp_path / "log")) as (process, ready):
        with TritonEngine(ready["grpc"]) as engine:
            assert engine.infer({"image": np.zeros((1, 64, 64), np.int16)}).keys() == {"infected_probability"}
        for name, path in (("http", "/v2/health/ready"), ("metrics", "/metrics"), ("health", "/health/ready")):
            assert ready[name].startswith("[::1]:")
            with urllib.request.urlopen(f"http://{ready[name]}{path}", timeout=10) as answer:
                assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def test_a_port_in_use_is_exit_2(small_repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ports = Ports.free()
    with socket.create_server(("127.0.0.1", ports.grpc)):
        assert _exit(_arguments(small_repository, ports)) == 2
    assert f"port {ports.grpc}" in capsys.readouterr().err


def test_only_loopback_is_served(small_repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit([*_arguments(small_repository, Ports.free()), "--host", "0.0.0.0"]) == 2
    assert "loopback only" in capsys.readouterr().err


def test_a_server_that_others_can_reach_says_what_that_means(small_repository: Path, tmp_path: Path) -> None:
    with _serving(small_repository, "--host", "0.0.0.0", "--allow-remote", "--log", str(tmp_path / "log")) as served:
        process, ready = served
        port = ready["grpc"].removeprefix("0.0.0.0:")
        image = np.zeros((1, 64, 64), np.int16)
        with TritonEngine(f"127.0.0.1:{port}") as engine:
            assert engine.infer({"image": image}).keys() == {"infected_probability"}
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = process.stderr.read()
    assert "other machines can reach this server" in said
    assert "known vulnerabilities, asks nobody for a password and does not encrypt" in said


def test_a_docker_run_that_lets_others_in_says_what_that_means(
    small_repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["serve", "--container", "--repository", str(small_repository)]
    assert _exit([*command, "--host", "0.0.0.0", "--allow-remote"]) == 0
    said = capsys.readouterr()
    assert "asks nobody for a password and does not encrypt: put TLS and authentication in front" in said.err
    assert said.out.startswith("docker run ")
    assert _exit(command) == 0
    assert "other machines" not in capsys.readouterr().err


def test_an_empty_repository_is_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit(_arguments(tmp_path, Ports.free())) == 2
    assert "coronanet repository" in capsys.readouterr().err


def test_a_repository_or_bundles_not_both(small_repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit([*_arguments(small_repository, Ports.free()), "--bundles", str(small_repository)]) == 2
    assert "expected one of them" in capsys.readouterr().err


def test_repository_fills_a_folder(
    bundles: dict[TaskName, Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def provide(folder: Path | None, *, key: PublicKey | None) -> Mapping[TaskName, Bundle]:
        assert folder == tmp_path / "bundles"
        return {"classification": bundles["classification"]}

    monkeypatch.setattr(cli, "provide_bundles", provide)
    out = tmp_path / "triton_repo"
    assert _exit(["repository", "--out", str(out), "--bundles", str(tmp_path / "bundles"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["repository"] == str(out)
    assert [step["model"] for step in answer["steps"]] == ["preprocess", "classification", "decide_classification"]
    assert read_index(out).bundles == {"classification": bundles["classification"].sha256}
    assert answer["without_plans"] == ["classification"]


@pytest.fixture
def checkout(bundles: dict[TaskName, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout and a user's cache beside it, with one bundle to serve."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    monkeypatch.setattr(repository_module, "ROOT", folder)
    monkeypatch.setattr(repository_module, "cache_home", lambda: tmp_path / "cache")
    monkeypatch.setattr(cli, "provide_bundles", lambda _, key: {"classification": bundles["classification"]})
    return folder


@pytest.mark.parametrize("options", [["--instances", "3"], ["--bundles", "mine"]])
def test_bundles_or_instances_of_ones_own_leave_the_committed_repository_alone(
    checkout: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit(["repository", *options, "--json"]) == 0
    captured = capsys.readouterr()
    home = checkout.parent / "cache" / "triton_repo"
    assert json.loads(captured.out)["repository"] == str(home)
    assert str(home) in captured.err
    assert read_index(home).files
    assert not (checkout / "triton_repo").exists()


def test_the_defaults_fill_the_committed_repository(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit(["repository", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["repository"] == str(checkout / "triton_repo")
    assert "committed" not in captured.err


def test_a_person_is_told_which_networks_tensorrt_cannot_serve(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _exit(["repository"]) == 0
    assert (
        "not for `--model-config-name tensorrt`: classification without a proved TensorRT plan; build them on the "
        "server's GPU with `coronanet export --fp16 --tensorrt`" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("options", "folder"), [([], "checkout/triton_repo"), (["--instances", "3"], "cache/triton_repo")]
)
def test_serve_starts_what_it_filled(
    checkout: Path, options: list[str], folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(server: TritonServer) -> None:
        read_index(server.repository)
        raise RefusedError(f"started {server.repository}")

    monkeypatch.setattr(TritonServer, "start", start)
    ports = Ports.free()
    numbers = {"--http-port": ports.http, "--grpc-port": ports.grpc, "--metrics-port": ports.metrics}
    given = [str(part) for pair in numbers.items() for part in pair]
    assert _exit(["serve", *given, *options]) == 1
    assert f"started {checkout.parent / folder}" in capsys.readouterr().err
