"""A server's run folder and its shared memory: taken away by whoever is left when the server's processes are dead.

Every run has a name, and everything that it leaves on this machine begins with it: a folder in the cache, and the
regions that Triton's model processes keep in ``/dev/shm``. The folder holds a lock file, locked by the process that
started the server and, because an open file is handed down, by the server and its model processes. The kernel lets go
of a lock when the last of them is gone, however it ended, so a lock that can be taken is the proof that nobody needs
what is there. Process numbers prove nothing: they are used again, and mean something else in each container.
"""

import fcntl
import os
import secrets
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ..engines.places import cache_home
from . import keeper
from .keeper import LOCK


def runs_home() -> Path:
    """The folder with one folder for each run of a server."""
    return cache_home() / "triton" / "runs"


@dataclass
class Run:
    """The place of one server on this machine; a context manager that clears it away.

    Attributes:
        folder: the run's own folder; its name begins the name of every shared memory region.
        lock: the open lock file, which the server inherits.
    """

    folder: Path
    lock: int
    _keeper: "subprocess.Popen[bytes]"

    @classmethod
    def begin(cls) -> Self:
        """A new run, with a small process beside it that clears up if nobody else can.

        Raises:
            OSError: the cache cannot be written.
        """
        folder = runs_home() / f"coronanet-{os.getpid()}-{secrets.token_hex(4)}-"
        # Under another name until it is locked: `reap` takes what is not locked for abandoned.
        work = folder.with_name(f".{folder.name}")
        work.mkdir(mode=0o700, parents=True)
        lock = os.open(work / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            work.rename(folder)
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", keeper.__file__, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # Out of reach of Ctrl-C and of whatever ends the group of the process that starts it.
                start_new_session=True,
            )
        except BaseException:
            os.close(lock)
            for each in (work, folder):
                shutil.rmtree(each, ignore_errors=True)
            raise
        return cls(folder, lock, process)

    @property
    def prefix(self) -> str:
        """What the names of this run's shared memory regions begin with."""
        return self.folder.name

    def end(self) -> None:
        """Clear up; every process that inherited the lock must have ended before."""
        keeper.clear(self.folder)
        os.close(self.lock)
        self._keeper.send_signal(keeper.LOOK)
        with suppress(subprocess.TimeoutExpired):
            self._keeper.wait(5)
        if self._keeper.poll() is None:  # somebody still holds the lock: the keeper's work is done all the same
            self._keeper.kill()
            self._keeper.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.end()


def reap() -> tuple[str, ...]:
    """Clear up after every run whose processes are all dead; the names of those runs."""
    reaped: list[str] = []
    for folder in sorted(runs_home().glob("coronanet-*-")):
        try:
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # it is just being cleared
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            keeper.end_orphans(folder)  # the start after the next one finds the lock free
            continue
        else:
            keeper.clear(folder)
            reaped.append(folder.name)
        finally:
            os.close(lock)
    return tuple(reaped)
