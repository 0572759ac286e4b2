"""The tutorial is followed to its end: its files, its commands, a real server, and an answer of the user's network."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from coronanet.engines.bundle import CARD, WEIGHTS, Bundle
from coronanet.engines.places import HOME_VARIABLE
from coronanet.engines.slices import phantom_slices
from coronanet.export.options import Wanted
from coronanet.export.pipeline import export_bundle
from coronanet.model.card import Card, Network
from coronanet.model.metrics import dice
from coronanet.model.tasks import TASK_NAMES, TASKS, Task
from coronanet.serving.addresses import Ports
from coronanet.serving.repository import read_index
from safetensors.torch import save_file
from torch import Tensor, nn

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorial-own-network.md"
FILE = re.compile(r"`([\w.]+)`:\n\n```(?:python|json)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = re.compile(r"^```\n((?:python|coronanet) .*?)^```", re.MULTILINE | re.DOTALL)
OWN = Network(family="own", parameters={})
ADDRESS = "127.0.0.1:8001"


@pytest.fixture
def folder(tiny_source: Path, tmp_path: Path) -> Path:
    """An empty folder, but for the three other tasks of the ensemble: small networks that have learnt nothing, where
    `serve` would take minutes to export the weights that ship."""
    tiny = Card.load(tiny_source / CARD)
    for name in TASK_NAMES:
        if name == tiny.task:
            continue
        network = _Stand(TASKS[name])
        threshold = None if TASKS[name].channels > 1 else 0.5
        update = {"task": name, "labels": TASKS[name].labels, "threshold": threshold, "network": OWN}
        source = tmp_path / "stands" / name
        source.mkdir(parents=True)
        (source / CARD).write_text(tiny.model_copy(update=update).to_json(), encoding="utf-8")
        save_file(network.state_dict(), source / WEIGHTS)
        export_bundle(
            source, tmp_path / "bundles", phantom_slices(), Wanted(builder=lambda _, network=network: network)
        )
    return tmp_path


class _Stand(nn.Module):
    """A network for a task, of one layer."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.task = task
        self.layer = nn.Conv2d(1, task.channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        logits = self.layer(pixels)
        return logits if self.task.is_segmentation else logits.mean((2, 3))


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
