"""Long time slices, read back from the kernel."""

import errno
import os
import platform
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from coronanet.serving import time_slice
from coronanet.serving.time_slice import LONGEST_NS, ask_for_long_slice

from .conftest import needs_time_slices, time_slice_ns


def _this_thread() -> str:
    return f"self/task/{threading.get_native_id()}"


@needs_time_slices
def test_a_thread_gets_the_longest_slice_and_so_do_those_that_it_starts() -> None:
    def ask() -> tuple[bool, int, int]:
        taken = ask_for_long_slice()
        with ThreadPoolExecutor(1) as started:
            return taken, time_slice_ns(_this_thread()), started.submit(lambda: time_slice_ns(_this_thread())).result()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(ask).result() == (True, LONGEST_NS, LONGEST_NS)
    assert time_slice_ns(_this_thread()) < LONGEST_NS


@needs_time_slices
@pytest.mark.parametrize("policy", ["SCHED_OTHER", "SCHED_BATCH"])
def test_priority_and_policy_stay_what_they_were(policy: str) -> None:
    code = (
        "import os; from coronanet.serving.time_slice import ask_for_long_slice; "
        f"os.sched_setscheduler(0, os.{policy}, os.sched_param(0)); taken = ask_for_long_slice(); "
        "print(taken, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))"
    )
    command = ["nice", "-n", "5", sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + 5, 19)
    assert run.stdout.split() == ["True", str(nice), str(getattr(os, policy))]


@pytest.mark.parametrize(
    ("where", "name", "answer"), [(os, "sched_getscheduler", os.SCHED_FIFO), (platform, "machine", "riscv64")]
)
def test_nothing_is_asked_under_a_real_time_policy_or_on_an_unknown_machine(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, answer: object
) -> None:
    monkeypatch.setattr(where, name, lambda *_: answer)
    monkeypatch.setattr(time_slice.ctypes, "CDLL", lambda _: pytest.fail("the kernel was asked"))
    assert not ask_for_long_slice()


def test_a_sandbox_that_forbids_the_question_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbid(_: int) -> int:
        raise PermissionError(errno.EPERM, "forbidden")

    monkeypatch.setattr(os, "sched_getscheduler", forbid)
    assert not ask_for_long_slice()


def test_a_kernel_that_refuses_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(time_slice.SYSCALLS, platform.machine(), 9999)  # no such call: ENOSYS
    assert not ask_for_long_slice()
