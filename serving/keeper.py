"""Waits until every process of a server is dead, then takes away what they left: ``python keeper.py RUN_FOLDER``.

A script of its own with nothing but the standard library, so that it starts at once and costs little while it waits.
It is what is left when the server, its model processes and the process that started them are killed together.
"""

import fcntl
import os
import shutil
import sys
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108 - POSIX shared memory, not a temporary file
LOCK = "lock"


def clear(folder: Path) -> None:
    """Remove a run's shared memory, then its folder, whose name begins the name of every region."""
    for region in SHM.glob(f"{folder.name}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def main(folder: Path) -> None:
    """Wait for the lock of a run, which the kernel gives when nobody of that run is alive, and clear up."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return
    fcntl.flock(lock, fcntl.LOCK_EX)
    clear(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
