"""What a run logs is on the disk at once, goes on after a stop, and TensorBoard reads it."""

import csv
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from coronanet.training.curves import BoardCurve, CsvCurve
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

#: Protobuf makes it at run time.
EVENTS: Any = event_pb2


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def events(path: Path) -> list[Any]:
    """The events of a file, every checksum checked."""
    data, read = path.read_bytes(), list[Any]()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        body = data[12 : 12 + length]
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc32c(body)
        read.append(EVENTS.Event.FromString(body))
        data = data[16 + length :]
    return read


def test_a_row_is_on_the_disk_as_soon_as_it_is_logged(tmp_path: Path) -> None:
    curve = CsvCurve(tmp_path)
    curve.log_metrics({"loss": torch.tensor(0.5), "epoch": 0}, step=4)
    assert rows(tmp_path) == [{"loss": "0.5", "step": "4"}]
    curve.log_metrics({"dice": 0.25}, step=4)
    curve.log_metrics({"loss": 0.125}, step=9)
    assert rows(tmp_path) == [
        {"dice": "", "loss": "0.5", "step": "4"},
        {"dice": "0.25", "loss": "", "step": "4"},
        {"dice": "", "loss": "0.125", "step": "9"},
    ]


def test_a_new_run_begins_a_new_curve(tmp_path: Path) -> None:
    CsvCurve(tmp_path).log_metrics({"loss": 1.0}, step=0)
    CsvCurve(tmp_path).log_metrics({"loss": 2.0}, step=0)
    assert [row["loss"] for row in rows(tmp_path)] == ["2.0"]


def test_a_run_that_goes_on_keeps_what_its_checkpoint_has_seen(tmp_path: Path) -> None:
    curve = CsvCurve(tmp_path)
    for step in range(6):
        curve.log_metrics({"loss": float(step)}, step=step)
    # A kill in the middle of a write.
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("6.")
    again = CsvCurve(tmp_path, begin=3)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "1", "2"]
    again.log_metrics({"loss": 30.0}, step=3)
    assert [row["loss"] for row in rows(tmp_path)] == ["0.0", "1.0", "2.0", "30.0"]


def test_a_curve_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    curve = CsvCurve(tmp_path)
    curve.log_metrics({"loss": 1.0}, step=0)
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(OSError, match=r"while the curves were written: .*metrics\.csv"):
        curve.log_metrics({"loss": 1.0}, step=1)
    (tmp_path / "tensorboard").touch()
    with pytest.raises(OSError, match=r"while the curves were written: .*tensorboard"):
        BoardCurve(tmp_path / "tensorboard").log_metrics({"loss": 1.0}, step=1)


def test_tensorboard_is_told_the_same(tmp_path: Path) -> None:
    board = BoardCurve(tmp_path / "tensorboard", begin=8)
    board.log_metrics({"loss": torch.tensor(0.5), "epoch": 0}, step=8)
    board.log_metrics({"loss": 0.25, "dice": 0.75}, step=9)
    (path,) = (tmp_path / "tensorboard").iterdir()
    version, start, *logged = events(path)
    assert version.file_version == "brain.Event:2"
    # What an earlier file says of step 8 and later is forgotten.
    assert (start.step, start.session_log.status) == (8, EVENTS.SessionLog.START)
    told = [(event.step, {value.tag: value.simple_value for value in event.summary.value}) for event in logged]
    assert told == [(8, {"loss": 0.5}), (9, {"loss": 0.25, "dice": 0.75})]
