"""Runs a command that must not outlive its parent: ``python launch.py PARENT_PID COMMAND...``; Linux only.

A script of its own, because between fork and exec a process with threads may not run Python safely.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Become ``command``, which gets SIGTERM when the thread that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before the line above
        return
    os.execv(command[0], command)  # noqa: S606 - a list, no shell


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
