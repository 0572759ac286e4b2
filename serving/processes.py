"""The model processes of a running Triton, as the kernel lists them: Triton itself does not notice when one dies."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .keeper import SHM, STUB

PROC = Path("/proc")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ModelProcess:
    """A living process that runs one instance of a model.

    Attributes:
        model: the name of the model.
        region: the name of its shared memory region.
    """

    pid: int
    model: str
    region: str

    @property
    def cpu_s(self) -> float | None:
        """The processor time that it has used, in seconds; None once it is dead."""
        stat = _stat(self.pid)
        return None if stat is None else (int(stat[11]) + int(stat[12])) / TICKS_PER_S

    @property
    def worked_ns(self) -> int | None:
        """How long its main thread, which is the one that answers, has had a processor; None once it is gone, or where
        the kernel does not count, which looks like none at all.
        """
        try:
            return int((PROC / str(self.pid) / "task" / str(self.pid) / "schedstat").read_text().split()[0]) or None
        except (FileNotFoundError, ProcessLookupError):
            return None

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def forget(self) -> None:
        """Remove the shared memory of a process that is dead, which Triton would keep until it ends."""
        (SHM / self.region).unlink(missing_ok=True)


def model_processes(server: int) -> tuple[ModelProcess, ...]:
    """The living model processes of the Triton with the process number ``server``."""
    found: list[ModelProcess] = []
    for entry in PROC.iterdir():
        if not entry.name.isdigit():
            continue
        stat = _stat(int(entry.name))
        if stat is None or int(stat[1]) != server:
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # Between fork and exec it still carries the arguments of the server.
        if Path(arguments[0]).name == STUB:
            found.append(ModelProcess(int(entry.name), Path(arguments[1]).parent.parent.name, arguments[2]))
    return tuple(found)


def lives(group: int) -> bool:
    """Whether any process of a group is alive; the dead of it may wait long for a parent that collects them."""
    pids = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdigit()]
    return any(int(stat[2]) == group for pid in pids if (stat := _stat(pid)) is not None)


def _stat(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` behind the name, from the state on; None where it is dead."""
    try:
        fields = (PROC / str(pid) / "stat").read_bytes().decode(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields
