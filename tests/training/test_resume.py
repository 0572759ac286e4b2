"""A run that is killed goes on as if it had not been; a full disk and a cut-off checkpoint are named."""

import csv
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from coronanet.cli import main
from coronanet.model.errors import UsageError
from coronanet.training.checkpoints import AtomicCheckpoints, steps_done

CONFIG = """
steps = 80
batch = 2
ema_decay = 0.9
checkpoint_steps = 8
validation_steps = 8
patience = 99

[network]
family = "unet"
parameters = { features = 2, dropout = 0.2 }

[geometry]
height = 64
width = 64
"""
TASK = "lung_segmentation"
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
#: `coronanet`, killed a moment after its second checkpoint: from outside nobody is sure to come in time.
KILLED = """
import os, signal, sys, threading
from coronanet.cli import main
from coronanet.training.checkpoints import AtomicCheckpoints

save, saved = AtomicCheckpoints.save_checkpoint, []

def save_and_die(self, *arguments, **options):
    save(self, *arguments, **options)
    saved.append(self)
    if len(saved) == 2:
        threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()

AtomicCheckpoints.save_checkpoint = save_and_die
main(sys.argv[1:])
"""


def arguments(data: Path, folder: Path, *options: str) -> list[str]:
    config = folder / "recipe.toml"
    folder.mkdir(exist_ok=True)
    config.write_text(CONFIG)
    given = ["--data", data, "--out", folder / "out", "--runs", folder / "runs", "--config", config]
    return ["train", TASK, *map(str, given), "--workers", "0", "--seed", "3", *options]


def start(data: Path, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "coronanet", *arguments(data, folder, *options)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ONE_THREAD)


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "runs" / TASK / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> bytes:
    return (folder / "out" / TASK / "weights.safetensors").read_bytes()


def last(folder: Path) -> Path:
    return folder / "runs" / TASK / "last.ckpt"


def run(capsys: pytest.CaptureFixture[str], given: list[str]) -> tuple[int, str]:
    """The verb in this process: its exit code and what it says on stderr."""
    with pytest.raises(SystemExit) as stopped:
        main(given)
    return int(stopped.value.code or 0), capsys.readouterr().err


@pytest.fixture(scope="module")
def killed(synthetic_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed with some checkpoints behind it, in the middle of whatever it did."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, "-c", KILLED, *arguments(synthetic_data, folder)]
    run = subprocess.run(command, capture_output=True, env=ONE_THREAD, timeout=200, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert 16 <= steps_done(last(folder)) < 80
    assert not (folder / "out").exists()
    return folder


def test_a_killed_run_goes_on_to_the_same_curve_and_weights(synthetic_data: Path, killed: Path, tmp_path: Path) -> None:
    _, said = start(synthetic_data, tmp_path / "whole").communicate(timeout=250)
    assert weights(tmp_path / "whole"), said.decode()
    _, said = start(synthetic_data, killed, "--resume").communicate(timeout=250)
    assert weights(killed) == weights(tmp_path / "whole"), said.decode()
    assert curve(killed) == curve(tmp_path / "whole")
    assert [int(row["step"]) for row in curve(killed) if row["loss"]] == list(range(7, 80, 8))
    assert [int(row["step"]) for row in curve(killed) if row["score"]] == list(range(7, 80, 8))


def test_a_finished_run_that_is_resumed_publishes_the_same_again(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a disk that was full when the weights were written."""
    code, said = run(capsys, arguments(synthetic_data, tmp_path))
    assert code == 0, said
    published, drawn = weights(tmp_path), curve(tmp_path)
    code, said = run(capsys, arguments(synthetic_data, tmp_path, "--resume"))
    assert code == 0, said
    assert weights(tmp_path) == published
    assert curve(tmp_path) == drawn


def test_a_run_that_was_stopped_is_not_lost_for_want_of_an_option(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    AtomicCheckpoints().save_checkpoint({"global_step": 8}, last(tmp_path))
    (last(tmp_path).parent / "config.toml").write_text(CONFIG)
    code, said = run(capsys, arguments(synthetic_data, tmp_path))
    assert code == 2
    assert "a run was stopped there after 8 of 80 steps: go on with --resume" in " ".join(said.split())
    assert steps_done(last(tmp_path)) == 8


def test_a_run_does_not_go_on_with_another_recipe(
    synthetic_data: Path, killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = run(capsys, arguments(synthetic_data, killed, "--resume", "--steps", "60"))
    assert code == 2
    assert "begun with another recipe (steps 80, now 60)" in said
    assert f"pass --config {killed / 'runs' / TASK / 'config.toml'}" in " ".join(said.split())


def test_a_run_whose_checkpoint_is_cut_off_does_not_go_on(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last(tmp_path).parent.mkdir(parents=True)
    AtomicCheckpoints().save_checkpoint({"global_step": 7, "weights": torch.zeros(1000)}, last(tmp_path))
    last(tmp_path).write_bytes(last(tmp_path).read_bytes()[:2000])
    code, said = run(capsys, arguments(synthetic_data, tmp_path, "--resume"))
    assert code == 2
    assert "last.ckpt is not a whole checkpoint (2000 bytes): delete it, and the run begins anew" in said
    assert "Traceback" not in said


def test_a_disk_that_fills_up_is_named_and_the_last_checkpoint_stays(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    really, written = os.fsync, [0]

    def full(file: int) -> None:
        written[0] += os.readlink(f"/proc/self/fd/{file}") == str(last(tmp_path).with_suffix(".part"))
        if written[0] > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(file)

    monkeypatch.setattr(os, "fsync", full)
    code, said = run(capsys, [*arguments(synthetic_data, tmp_path), "--json"])
    assert code == 2
    assert f"{last(tmp_path)}: No space left on device while a checkpoint was written" in " ".join(said.split())
    assert "Traceback" not in said
    assert steps_done(last(tmp_path)) == 16
    assert not list(last(tmp_path).parent.glob("*.part"))
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_at_the_end_publishes_nothing(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of weights is larger than this process may write: a real failure in the middle of a write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save(network: torch.nn.Module, path: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            really(network, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    from coronanet.training import train

    really = train.save_weights
    monkeypatch.setattr(train, "save_weights", save)
    code, said = run(capsys, arguments(synthetic_data, tmp_path, "--steps", "20"))
    assert code == 2
    assert "File too large: nothing was published there; make room and go on with --resume" in " ".join(said.split())
    assert not list((tmp_path / "out").iterdir())


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
