"""The curves of a run, as CSV and for TensorBoard. A run that is resumed goes on writing where it was stopped.

Lightning's own loggers begin a new file on every start, and tensorboardX writes in a thread: on a full disk the thread
dies, and the run waits for it for ever.
"""

import csv
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger
from tensorboardX.proto import event_pb2, summary_pb2
from tensorboardX.record_writer import masked_crc32c

METRICS = "metrics.csv"
STEP = "step"
#: Protobuf makes their classes at run time.
_EVENTS: Any = event_pb2
_SUMMARIES: Any = summary_pb2


class _FolderLogger(Logger):
    """What Lightning asks of a logger that writes into a folder of its own."""

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @staticmethod
    def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
        """What is worth a curve: a run is one epoch, so Lightning's count of them is not."""
        return {name: float(value) for name, value in metrics.items() if name != "epoch"}

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: the recipe stands in ``config.toml``."""


class CsvCurve(_FolderLogger):
    """``metrics.csv``: a row whenever something is logged, a column for every name, empty where it has no value.

    Args:
        folder: where ``metrics.csv`` goes; it must exist.
        begin: the step that comes first; rows of earlier steps are kept, all others go.
    """

    def __init__(self, folder: Path, begin: int = 0) -> None:
        super().__init__()
        self._path = folder / METRICS
        self._columns: list[str] = []
        self._rows: list[dict[str, Any]] = []
        self._begin(begin)

    @rank_zero_only
    def _begin(self, step: int) -> None:
        if step and self._path.is_file():
            with self._path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                # A run that was killed may have left half a row at the end.
                self._rows = [row for row in reader if (row[STEP] or "").isdigit() and int(row[STEP]) < step]
                self._columns = list(reader.fieldnames or ())
        self._rewrite()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write one row; raises ``OSError`` where the disk is full."""
        row: dict[str, Any] = self.figures(metrics) | {STEP: step}
        self._rows.append(row)
        if new := row.keys() - set(self._columns):
            self._columns = sorted({*self._columns, *new})
            self._rewrite()
            return
        try:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(row)
        except OSError as error:
            raise _named(error, self._path) from None

    def _rewrite(self) -> None:
        part = self._path.with_suffix(".part")
        try:
            with part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, self._columns)
                writer.writeheader()
                writer.writerows(self._rows)
            part.replace(self._path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise _named(error, self._path) from None


class BoardCurve(_FolderLogger):
    """The same values as an events file for TensorBoard, written at once.

    Args:
        folder: where the events file goes.
        begin: the step that comes first; TensorBoard forgets what earlier files say of it and of later ones.
    """

    def __init__(self, folder: Path, begin: int = 0) -> None:
        super().__init__()
        self._path = folder / f"events.out.tfevents.{time.time_ns()}.coronanet"
        self._begin = begin

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write one event; raises ``OSError`` where the disk is full."""
        figures = self.figures(metrics)
        values = [_SUMMARIES.Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        records = _record(step=step, summary=_SUMMARIES.Summary(value=values))
        if not self._path.exists():
            start = _EVENTS.SessionLog(status=_EVENTS.SessionLog.START)
            records = _record(file_version="brain.Event:2") + _record(step=self._begin, session_log=start) + records
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(records)
        except OSError as error:
            raise _named(error, self._path) from None


def _record(**event: Any) -> bytes:
    """An event as a TFRecord: length, checksum, data, checksum (tensorflow.org/tutorials/load_data/tfrecord)."""
    data = _EVENTS.Event(wall_time=time.time(), **event).SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join((length, _checksum(length), data, _checksum(data)))


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", masked_crc32c(data))


def _named(error: OSError, path: Path) -> OSError:
    """The same failure with the file in it, which a failed write does not tell."""
    return OSError(error.errno, f"{os.strerror(error.errno or 0)} while the curves were written", str(path))
