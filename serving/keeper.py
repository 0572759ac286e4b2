"""Waits until every process of a server is dead, then takes away what they left: ``python keeper.py RUN_FOLDER``.

A script of its own with nothing but the standard library, so that it starts at once and costs little while it waits.
It is what is left when the server, its model processes and the process that started them are killed together.
"""

import fcntl
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

SHM = Path("/dev/shm")  # noqa: S108 - POSIX shared memory, not a temporary file
LOCK = "lock"
STUB = "triton_python_backend_stub"
#: How often it looks by itself, and the signal that has it look at once.
LOOK_S = 2.0
LOOK = signal.SIGUSR1


def clear(folder: Path) -> None:
    """Remove a run's shared memory, then its folder, whose name begins the name of every region."""
    for region in SHM.glob(f"{folder.name}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def end_orphans(folder: Path) -> None:
    """End the model processes of a run whose server is dead.

    Mostly they notice by themselves; one that waits for what the server held when it was killed waits for ever.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            parent = (entry / "stat").read_bytes().decode(errors="replace").rpartition(")")[2].split()[1]
        except OSError:  # it has just ended
            continue
        # A model process is told the number of its server: stub, code, region, two sizes, server.
        ours = Path(arguments[0]).name == STUB and len(arguments) > 5 and arguments[2].startswith(folder.name)
        if ours and arguments[5] != parent:
            with suppress(ProcessLookupError):
                os.kill(int(entry.name), signal.SIGKILL)


def main(folder: Path) -> None:
    """Wait for the lock of a run, which the kernel gives when nobody of that run is alive, and clear up."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {LOOK})
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            end_orphans(folder)
            signal.sigtimedwait({LOOK}, LOOK_S)
        else:
            clear(folder)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
