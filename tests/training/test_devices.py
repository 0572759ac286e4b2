"""`--devices 2`: two processes share every epoch, and the first one publishes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from coronanet.training.views import Positions

RUN = """
steps = 20
batch = 2

[network]
family = "unet"
parameters = { features = 2, dropout = 0.0 }

[geometry]
height = 64
width = 64
"""


def test_two_processes_train_one_network(synthetic_data: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text(RUN)
    where = ["--data", synthetic_data, "--out", tmp_path / "out", "--runs", tmp_path / "runs", "--config", config]
    command = [sys.executable, "-m", "coronanet", "train", "lung_segmentation", "--devices", "2", "--workers", "0"]
    done = subprocess.run(
        [*command, *map(str, where), "--json"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    (trained,) = json.loads(done.stdout)["trained"]
    assert trained["validation"]["dice"] >= 0
    assert (tmp_path / "out" / "lung_segmentation" / "weights.safetensors").is_file()
    assert "All distributed processes registered. Starting with 2 processes" in done.stderr
    with (tmp_path / "runs" / "lung_segmentation" / "metrics.csv").open(newline="") as file:
        assert max(int(row["step"]) for row in csv.DictReader(file)) == 19


def test_processes_share_the_positions_of_a_run_and_repeat_none() -> None:
    shares = [list(Positions(6, 2, rank=rank, processes=2)) for rank in (0, 1)]
    assert sorted(shares[0] + shares[1]) == list(range(24))
    assert [len(share) for share in shares] == [12, 12]


def test_a_stopped_run_goes_on_at_the_position_it_reached() -> None:
    whole, rest = Positions(6, 2), Positions(6, 2, first=4)
    assert list(rest) == list(whole)[8:]
    assert len(rest) == len(whole)
