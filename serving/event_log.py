"""What happened to a server, one JSON object a line, in files of bounded size. No pixel and no name is ever in it."""

import json
import logging
import re
import shutil
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Protocol

from ..engines.places import cache_home

MAX_BYTES = 2**20
BACKUPS = 3
#: Logs of servers on ports that are not used any more.
KEEP_DAYS = 30
_OURS = re.compile(r"triton-(\d+)(\.log|-events\.jsonl)(\.\d)?$")

#: What an event may carry: never an array.
Field = str | int | float | bool | list[str] | None


class Emit(Protocol):
    """Takes note of an event."""

    def __call__(self, event: str, /, **fields: Field) -> None: ...


class EventLog:
    """Appends events to ``path``, which is moved to ``path.1`` and so on before it grows beyond ``MAX_BYTES``.

    A disk that is full costs lines, never the server: the line then goes to stderr.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._handler = path, _open(path)

    def follow(self, path: Path) -> None:
        """Go on in another file.

        Raises:
            OSError: it cannot be opened.
        """
        if path != self.path:
            handler = _open(path)
            self.close()
            self.path, self._handler = path, handler

    def __call__(self, event: str, /, **fields: Field) -> None:
        """Write one event with the time in UTC."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, **fields}, allow_nan=False)
        self._handler.handle(logging.LogRecord(__name__, logging.INFO, "", 0, line, None, None))

    def close(self) -> None:
        with suppress(OSError):  # the disk is full, and its lines went to stderr
            self._handler.close()


class _Handler(RotatingFileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is the standard library's
        print(record.getMessage(), file=sys.stderr)  # noqa: T201 - the last resort of a log


def _open(path: Path) -> _Handler:
    path.parent.mkdir(parents=True, exist_ok=True)
    return _Handler(path, maxBytes=MAX_BYTES, backupCount=BACKUPS, encoding="utf-8")


def events_beside(log: Path) -> Path:
    """Where the events of the server with that ``log`` are."""
    return log.with_name(f"{log.stem}-events.jsonl")


def rotate(path: Path) -> bool:
    """Move what another process appends to ``path`` to ``path.1`` and so on once it is larger than ``MAX_BYTES``.

    The writer keeps its open file, so the content is copied and the file emptied; lines that it writes between the two
    are lost. Returns whether that was done; a log that is gone, or that may not be changed, stays as it is.
    """
    try:
        if path.stat().st_size <= MAX_BYTES:
            return False
        _keep(path)
        with path.open("r+b") as file:
            file.truncate()
    except OSError:
        return False
    return True


def _keep(path: Path) -> None:
    """Copy a log to ``path.1``, and what was kept before to ``path.2`` and so on."""
    try:
        for number in range(BACKUPS - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
    except OSError:  # no room for the copy: better no old lines than a log that fills the disk further
        path.with_name(f"{path.name}.1").unlink(missing_ok=True)


def default_log(port: int) -> Path:
    """Where the log of the server on that gRPC port is when nobody says where."""
    return cache_home() / "logs" / f"triton-{port}.log"


def prune() -> None:
    """Remove the logs in their default folder of servers that have written nothing for ``KEEP_DAYS`` days.

    All files of a server or none: a healthy Triton may be silent for longer, while its events never are.
    """
    servers: dict[str, list[Path]] = {}
    for file in default_log(0).parent.glob("triton-*"):
        if match := _OURS.match(file.name):
            servers.setdefault(match[1], []).append(file)
    oldest = time.time() - KEEP_DAYS * 86400
    for files in servers.values():
        if max(file.stat().st_mtime for file in files) < oldest:
            for file in files:
                file.unlink(missing_ok=True)
