"""What a server leaves behind is taken away when all its processes are dead, and not before."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from coronanet.engines.places import HOME_VARIABLE
from coronanet.serving.keeper import LOOK_S, SHM
from coronanet.serving.leftovers import Run, reap, runs_home

#: Starts a run with a region, hands its lock to a process of its own, says both names, and waits.
OWNER = """
import subprocess, sys, time
from coronanet.serving.leftovers import Run
run = Run.begin()
open(f"/dev/shm/{run.prefix}region", "wb").write(b"x")
server = subprocess.Popen(["sleep", "600"], pass_fds=(run.lock,))
print(run.prefix, server.pid, run._keeper.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def owner() -> Iterator[tuple[subprocess.Popen[str], str, int, int]]:
    """A process with a run, the run's name, and the processes of its server and its keeper."""
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name, *pids = process.stdout.readline().split()
        server, keeper = map(int, pids)
        yield process, name, server, keeper
        for pid in (process.pid, server, keeper):
            if Path(f"/proc/{pid}").exists():
                os.kill(pid, signal.SIGKILL)


def _left(name: str) -> list[str]:
    return [path.name for folder in (SHM, runs_home()) if folder.is_dir() for path in folder.glob(f"{name}*")]


def _eventually(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_run_that_ends_leaves_nothing() -> None:
    with Run.begin() as run:
        (SHM / f"{run.prefix}region").write_bytes(b"x")
        assert len(_left(run.prefix)) == 2
        assert reap() == (), "it is alive"
    assert _left(run.prefix) == []


def test_the_end_of_a_run_does_not_wait_until_its_keeper_looks_by_itself() -> None:
    with Run.begin() as run:
        time.sleep(0.5)  # the keeper has looked, and waits
        started = time.monotonic()
    assert time.monotonic() - started < LOOK_S / 2
    assert _left(run.prefix) == []


def test_the_keeper_clears_up_when_the_last_process_was_killed(
    owner: tuple[subprocess.Popen[str], str, int, int],
) -> None:
    process, name, server, _ = owner
    process.kill()
    process.wait()
    time.sleep(0.3)
    assert len(_left(name)) == 2, "the server still needs it"
    assert reap() == ()
    os.kill(server, signal.SIGKILL)
    assert _eventually(lambda: _left(name) == [])


def test_the_next_start_clears_up_when_the_keeper_was_killed_too(
    owner: tuple[subprocess.Popen[str], str, int, int],
) -> None:
    process, name, server, keeper = owner
    for pid in (keeper, process.pid, server):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert _eventually(lambda: not Path(f"/proc/{server}").exists())
    assert len(_left(name)) == 2
    assert reap() == (name,)
    assert _left(name) == []


def test_where_there_was_never_a_server_there_is_nothing_to_do() -> None:
    assert reap() == ()
