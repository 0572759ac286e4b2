"""When a process that does nothing is taken for one that hangs."""

import os
import time
from pathlib import Path

import pytest
from coronanet.model.tasks import TRIAGE
from coronanet.serving import processes as processes_module
from coronanet.serving.hanging import ANSWERS, Hanging
from coronanet.serving.processes import ModelProcess

from .conftest import needs_schedstat

ENOUGH = 2 * ANSWERS


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> dict[int, int | None]:
    """How long each process has worked, by its number; tests let them work."""
    clocks: dict[int, int | None] = {1: 100, 2: 200, 3: 300}
    monkeypatch.setattr(ModelProcess, "worked_ns", property(lambda self: clocks[self.pid]))
    return clocks


PAIR = [ModelProcess(1, "a", "none"), ModelProcess(2, "a", "none")]
ALONE = ModelProcess(3, "b", "none")


def test_one_that_did_nothing_while_its_model_answered_hangs(worked: dict[int, int | None]) -> None:
    hanging = Hanging()
    for answered in (0, 10, 10 + ENOUGH - 1):
        worked[1] = 100 + answered
        assert hanging.look(PAIR, {"a": answered}) == []
    worked[1] = 1000
    assert hanging.look(PAIR, {"a": 10 + ENOUGH}) == [PAIR[1]]


def test_what_was_answered_before_it_stopped_is_not_held_against_it(worked: dict[int, int | None]) -> None:
    hanging = Hanging()
    assert hanging.look(PAIR, {"a": 0}) == []
    worked[1], worked[2] = 500, 600
    # Between the two counts there was a flood; since the second look there is no traffic.
    for _ in range(5):
        assert hanging.look(PAIR, {"a": 10_000}) == []


def test_one_that_works_a_little_does_not_hang(worked: dict[int, int | None]) -> None:
    hanging = Hanging()
    for turn in range(6):
        worked[1] = 100 + turn
        worked[2] = 200 + turn // 2  # between two looks at times nothing
        assert hanging.look(PAIR, {"a": turn * (ENOUGH - 1)}) == []


def test_a_model_that_was_loaded_anew_counts_from_nought(worked: dict[int, int | None]) -> None:
    hanging = Hanging()
    for answered in (500, 500, 3, ENOUGH + 2):
        worked[1] = 100 + answered
        assert hanging.look(PAIR, {"a": answered}) == []
    assert hanging.look(PAIR, {"a": ENOUGH + 3}) == [PAIR[1]]


@pytest.mark.parametrize("kind", ["alone", "gone", "not counted", "gated"])
def test_nothing_is_said_of_what_cannot_be_told(worked: dict[int, int | None], kind: str) -> None:
    hanging = Hanging()
    gated = [ModelProcess(1, TRIAGE, "none"), ModelProcess(2, TRIAGE, "none")]  # they wait for the ensemble
    processes = {"alone": [ALONE], "gated": gated}.get(kind, PAIR)
    if kind == "gone":
        worked.update({1: None, 2: None})
    for turn in range(4):
        counts = {} if kind == "not counted" else {"a": turn * ENOUGH, "b": turn * ENOUGH, str(TRIAGE): turn * ENOUGH}
        assert hanging.look(processes, counts) == []


@needs_schedstat
def test_a_process_has_worked_for_as_long_as_its_main_thread_had_a_processor() -> None:
    own = ModelProcess(os.getpid(), "a", "none")
    before = own.worked_ns or 0
    deadline = time.monotonic() + 30
    while (own.worked_ns or 0) < before + 15_000_000:  # it computes here
        assert time.monotonic() < deadline
    assert ModelProcess(2**22 + 1, "a", "none").worked_ns is None


def test_a_kernel_that_does_not_count_says_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes_module, "PROC", tmp_path)
    (tmp_path / "7" / "task" / "7").mkdir(parents=True)
    (tmp_path / "7" / "task" / "7" / "schedstat").write_text("0 0 0\n")
    assert ModelProcess(7, "a", "none").worked_ns is None
