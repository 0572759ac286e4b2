"""A run that is killed goes on as if it had not been; a full disk and a cut-off checkpoint are named."""

import csv
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from coronanet.model.errors import UsageError
from coronanet.training.checkpoints import AtomicCheckpoints, steps_done

CONFIG = """
steps = 40
batch = 2
ema_decay = 0.9

[network]
family = "unet"
parameters = { features = 2, dropout = 0.2 }

[geometry]
height = 64
width = 64
"""
#: The verb in a process of its own, with epochs of eight steps, so that a test need not train for long.
PROGRAM = "from coronanet.training import fit; fit.STEPS_PER_EPOCH = 8; from coronanet.cli import main; main()"


def start(data: Path, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    config = folder / "recipe.toml"
    folder.mkdir(exist_ok=True)
    config.write_text(CONFIG)
    given = ["lung_segmentation", "--data", data, "--out", folder / "out", "--runs", folder / "runs", "--workers", "0"]
    command = [sys.executable, "-c", PROGRAM, "train", *map(str, given), "--config", str(config), "--seed", "3"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def losses(folder: Path) -> dict[int, float]:
    with (folder / "runs" / "lung_segmentation" / "metrics.csv").open(newline="") as file:
        return {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row["loss"]}


def weights(folder: Path) -> bytes:
    return (folder / "out" / "lung_segmentation" / "weights.safetensors").read_bytes()


def test_a_killed_run_goes_on_to_the_same_curve_and_weights(synthetic_data: Path, tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    _, said = start(synthetic_data, whole).communicate(timeout=180)
    assert weights(whole), said.decode()

    running = start(synthetic_data, stopped)
    last = stopped / "runs" / "lung_segmentation" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert 0 < steps_done(last) < 40, "the run ended before it was killed"
    assert not (stopped / "out" / "lung_segmentation").exists()

    _, said = start(synthetic_data, stopped, "--resume").communicate(timeout=180)
    assert weights(stopped) == weights(whole), said.decode()
    again = losses(stopped)
    assert again.items() <= losses(whole).items()
    assert max(again) == 39


def test_a_full_disk_leaves_the_last_checkpoint_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"global_step": 1}, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device while a checkpoint was written"):
        AtomicCheckpoints().save_checkpoint({"global_step": 2}, path)
    assert steps_done(path) == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_checkpoint_that_is_cut_off_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpoints().save_checkpoint({"global_step": 7, "weights": torch.zeros(1000)}, path)
    assert steps_done(path) == 7
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UsageError, match=r"last\.ckpt is not a whole checkpoint .*: delete it"):
        steps_done(path)
