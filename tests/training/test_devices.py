"""`--devices 2`: two processes share every batch, and the first one speaks and publishes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from coronanet.cli import main
from coronanet.training import fit
from coronanet.training.views import Positions

RUN = """
steps = 20
batch = 4
checkpoint_steps = 8
validation_steps = 10

[network]
family = "unet"
parameters = { features = 2, dropout = 0.1 }

[geometry]
height = 64
width = 64
"""
#: The verb, with a record of which process was shown which view; binary learns from Radiopaedia alone.
PROGRAM = """
import os
from pathlib import Path
from coronanet.cli import main
from coronanet.engines import datasets
from coronanet.training import fit, learner

class Watched(fit.Views):
    def __getitem__(self, index):
        with Path(os.environ["SEEN"], os.environ.get("LOCAL_RANK", "0")).open("a") as file:
            file.write(f"{index}\\n")
        if os.environ.get("BREAK") == os.environ.get("LOCAL_RANK") and index > 40:
            raise OSError("a process of its own trouble")
        return super().__getitem__(index)

fit.Views = Watched
really = learner.score

def score(*given):
    with Path(os.environ["SEEN"], "scored").open("a") as file:
        file.write(os.environ.get("LOCAL_RANK", "0"))
    return really(*given)

learner.score = score
datasets.SOURCES["binary_segmentation"] = datasets.SOURCES["lung_segmentation"]
main()
"""


def start(data: Path, folder: Path, *given: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "run.toml").write_text(RUN)
    (folder / "program.py").write_text(PROGRAM)
    (folder / "seen").mkdir()
    where = ["--data", data, "--out", folder / "out", "--runs", folder / "runs", "--config", folder / "run.toml"]
    command = [sys.executable, folder / "program.py", "train", *given, "--devices", "2", "--workers", "0", *where]
    return subprocess.run(
        [*map(str, command), "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "SEEN": str(folder / "seen")} | environment,
    )


def test_two_processes_train_one_network_after_another(synthetic_data: Path, tmp_path: Path) -> None:
    done = start(synthetic_data, tmp_path, "lung_segmentation", "binary_segmentation")
    assert done.returncode == 0, done.stderr
    trained = json.loads(done.stdout)["trained"]
    assert [row["task"] for row in trained] == ["lung_segmentation", "binary_segmentation"]
    for row in trained:
        assert sorted(path.name for path in Path(row["path"]).iterdir()) == [
            "card.json",
            "config.toml",
            "weights.safetensors",
        ]
        with (tmp_path / "runs" / row["task"] / "metrics.csv").open(newline="") as file:
            assert [int(line["step"]) for line in csv.DictReader(file) if line["loss"]] == list(range(1, 20, 2))
    shown = [list(map(int, (tmp_path / "seen" / rank).read_text().split())) for rank in ("0", "1")]
    assert len(shown[0]) == len(shown[1]) == 80
    # Twice, since there are two tasks.
    assert sorted(shown[0] + shown[1]) == sorted(2 * list(range(80)))
    # Two validations and the last scores a task, each in the first process alone.
    assert (tmp_path / "seen" / "scored").read_text() == "0" * 6
    assert done.stderr.count("training lung_segmentation") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("process", "answer", "said"),
    [
        ("0", "a process of its own trouble", []),
        (
            "1",
            "another process of --devices has ended",
            ["error: process 1 of --devices: a process of its own trouble"],
        ),
    ],
)
def test_the_trouble_of_a_process_is_said_once_and_ends_all(
    synthetic_data: Path, tmp_path: Path, process: str, answer: str, said: list[str]
) -> None:
    done = start(synthetic_data, tmp_path, "lung_segmentation", BREAK=process)
    assert done.returncode == 2
    told = json.loads(done.stdout)["error"]
    assert answer in told
    # The processes speak at once, so in either order.
    errors = [" ".join(line.split()) for line in done.stderr.splitlines() if line.startswith("error:")]
    assert sorted(errors) == sorted([*said, f"error: {told}"])
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_processes_share_the_positions_of_every_step_and_repeat_none() -> None:
    shares = [list(Positions(6, 4, rank=rank, processes=2)) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(24))
    for step in range(6):
        both = {position for share in shares for position in share[2 * step : 2 * step + 2]}
        assert both == set(range(4 * step, 4 * step + 4))
    assert [len(Positions(6, 4, rank=rank, processes=2)) for rank in (0, 1)] == [12, 12]


def test_a_stopped_run_goes_on_at_the_position_it_reached() -> None:
    whole, rest = Positions(6, 2), Positions(6, 2, first=4)
    assert list(rest) == list(whole)[8:]
    assert len(rest) == len(whole)


def test_a_batch_that_cannot_be_shared_is_named(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", synthetic_data, "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", "lung_segmentation", "--devices", "2", "--batch", "5", *map(str, where)])
    assert stopped.value.code == 2
    assert "2 processes cannot share batches of 5" in capsys.readouterr().err


def test_more_processes_than_gpus_are_named(
    synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fit.torch.cuda, "device_count", lambda: 1)
    where = ["--data", synthetic_data, "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    with pytest.raises(SystemExit) as stopped:
        main(["train", "lung_segmentation", "--devices", "2", *map(str, where)])
    assert stopped.value.code == 2
    assert "pass --devices 1" in capsys.readouterr().err
