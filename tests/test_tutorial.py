"""The tutorial is followed to its end: its files, its commands, a real server, and an answer of the user's network."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
from coronanet.engines.bundle import Bundle
from coronanet.engines.places import HOME_VARIABLE
from coronanet.model.metrics import dice
from coronanet.model.tasks import TaskName
from coronanet.serving.addresses import Ports
from coronanet.serving.repository import read_index

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorial-own-network.md"
FILE = re.compile(r"`([\w.]+)`:\n\n```(?:python|json)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```\n((?:python|coronanet) .*?)^```", re.MULTILINE | re.DOTALL)
ADDRESS = "127.0.0.1:8001"


@pytest.fixture
def folder(small_bundles: dict[TaskName, Bundle], tmp_path: Path) -> Path:
    """An empty folder, but for the three other tasks of the ensemble: small networks that have learnt nothing, where
    `serve` would take minutes to export the weights that ship."""
    for name, bundle in small_bundles.items():
        if name != "lung_segmentation":
            shutil.copytree(bundle.path, tmp_path / "bundles" / name)
    return tmp_path


@pytest.mark.slow
def test_the_tutorial_ends_in_an_answer_of_the_users_network(folder: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    files, commands = dict(FILE.findall(text)), "".join(COMMANDS.findall(text)).splitlines()
    assert len(files) + len(COMMANDS.findall(text)) + 1 == text.count("\n```") / 2, "a block is not followed"
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    ports = Ports.free()
    train, export, verify, serve, predict = commands
    assert "Dice on slices held back: 0.9" in _run(train, folder)
    assert "refused" not in _run(export, folder)
    verified = _run(verify, folder)
    # Parity of four files, the precision of two networks, and of fp16 its range and non-inferiority.
    assert verified.count("passed") == 8
    assert "refused" not in verified
    own = Bundle.open(folder / "bundles" / "lung_segmentation")
    given = f" --http-port {ports.http} --grpc-port {ports.grpc} --metrics-port {ports.metrics} --json"
    with _serving(serve + given, folder) as repository:
        assert read_index(repository).bundles["lung_segmentation"] == own.sha256
        _run(predict.replace(ADDRESS, f"127.0.0.1:{ports.grpc}"), folder)
    answer, truth = (
        cv2.imread(str(folder / path), cv2.IMREAD_GRAYSCALE) for path in ("results/3/lung_mask.png", "data/masks/3.png")
    )
    assert np.count_nonzero(truth) > 500
    assert dice(answer > 0, truth > 0) > 0.9


def _words(command: str) -> list[str]:
    program, *arguments = shlex.split(command)
    return [sys.executable, *(["-m", "coronanet"] if program == "coronanet" else []), *arguments]


def _environment(folder: Path) -> dict[str, str]:
    # One thread: training would wait for the cores that other processes use.
    return {**os.environ, HOME_VARIABLE: str(folder / "home"), "OMP_NUM_THREADS": "1"}


def _run(command: str, folder: Path) -> str:
    """What a command prints, that must succeed."""
    done = subprocess.run(
        _words(command), cwd=folder, env=_environment(folder), capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def _serving(command: str, folder: Path) -> Generator[Path]:
    """`coronanet serve` in another terminal, and the repository that it serves."""
    with subprocess.Popen(
        _words(command), cwd=folder, env=_environment(folder), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("}"):
                    break
            yield Path(json.loads("".join(lines))["repository"])
        finally:
            process.terminate()
            assert process.wait(60) == 0
