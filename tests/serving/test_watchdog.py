"""What the watchdog does about what it sees, with a server that fails to order; the real one is in ``test_faults``."""

import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from coronanet.model.errors import RefusedError
from coronanet.serving import watchdog as module
from coronanet.serving.event_log import Field
from coronanet.serving.examination import Finding
from coronanet.serving.hanging import ANSWERS
from coronanet.serving.processes import ModelProcess
from coronanet.serving.watchdog import Limits, Watchdog

WELL = Finding("well", 0.01)


@dataclass
class Server:
    """Two models of two processes each, which do not exist, so that nothing real is ever killed."""

    living: list[ModelProcess] = field(
        default_factory=lambda: [
            ModelProcess(2**22 + number, model, f"none-{number}") for number, model in enumerate(["a", "a", "b", "b"])
        ]
    )
    instances: dict[str, int] = field(default_factory=lambda: {"a": 2, "b": 2})
    findings: list[Finding | Exception] = field(default_factory=list)
    gone: str = ""
    reload_fails: Exception | None = None
    restarts_that_fail: int = 0
    no_start: Exception = field(default_factory=lambda: RefusedError("no start"))
    calls: list[str] = field(default_factory=list)
    start_s: float = 0
    reload_s: float = 0

    def ended(self, *, wait_s: float = 0) -> str:
        return self.gone

    def examine(self) -> Finding:
        finding = self.findings.pop(0) if self.findings else WELL
        if isinstance(finding, Exception):
            raise finding
        return finding

    def model_processes(self) -> list[ModelProcess]:
        return list(self.living)

    def reload(self, models: tuple[str, ...], timeout_s: float) -> None:
        self.calls.append(f"reload {' '.join(models)}")
        self.reload_s = timeout_s
        if self.reload_fails:
            raise self.reload_fails
        first = 1 + max(process.pid for process in self.living)
        self.living += [
            ModelProcess(first + number, model, "none") for number, model in enumerate(m for m in models for _ in "12")
        ]

    def restart(self) -> None:
        self.calls.append("restart")
        if self.restarts_that_fail:
            self.restarts_that_fail -= 1
            raise self.no_start
        self.gone = ""
        self.living = Server().living


class Events(list[str]):
    def __call__(self, event: str, /, **fields: Field) -> None:
        self.append(event)


@pytest.fixture
def events() -> Events:
    return Events()


def _until(watchdog: Watchdog, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        watchdog.step()
        time.sleep(0.01)


def test_a_server_that_is_well_is_left_alone(events: Events) -> None:
    server = Server()
    with Watchdog(server, events, Limits(watch_s=0)) as watchdog:
        _until(watchdog, lambda: events.count("well") >= 3)
    assert set(events) == {"well"}
    assert server.calls == []


def test_a_model_without_one_of_its_processes_is_loaded_again(events: Events) -> None:
    server = Server()
    with Watchdog(server, events) as watchdog:
        watchdog.step()
        server.living.pop()
        watchdog.step()
        watchdog.step()
    assert server.calls == ["reload b"]
    assert events == ["model_died", "model_back"]


def test_a_process_that_was_dead_before_the_watch_began_is_missed(events: Events) -> None:
    server = Server()
    server.living.pop()
    with Watchdog(server, events) as watchdog:
        watchdog.step()
        watchdog.step()
    assert server.calls == ["reload b"]


def test_two_models_that_die_together_are_loaded_together(events: Events) -> None:
    server = Server()
    with Watchdog(server, events) as watchdog:
        server.living = server.living[1:3]
        watchdog.step()
    assert server.calls == ["reload a b"]
    assert server.reload_s == 2 * module.RELOAD_S


def test_a_machine_that_took_long_to_start_has_as_long_to_load_a_model_again(events: Events) -> None:
    server = Server(start_s=3 * module.RELOAD_S)
    with Watchdog(server, events) as watchdog:
        server.living.pop()
        watchdog.step()
    assert server.calls == ["reload b"]
    assert server.reload_s == 3 * module.RELOAD_S


def test_a_busy_server_is_never_restarted(events: Events) -> None:
    server = Server(findings=[Finding("busy", 30.0, "late")] * 20)
    with Watchdog(server, events, Limits(watch_s=0)) as watchdog:
        _until(watchdog, lambda: "well" in events)
    assert events.count("busy") == 20
    assert server.calls == []


def test_one_finding_against_the_whole_server_is_not_believed_and_two_in_a_row_are(events: Events) -> None:
    sick = Finding("sick", 0.0, "no answer")
    server = Server(findings=[sick, WELL, sick, WELL, sick, sick])
    with Watchdog(server, events, Limits(watch_s=0)) as watchdog:
        _until(watchdog, lambda: server.calls != [])
    assert events[:8] == ["sick", "well", "sick", "well", "sick", "sick", "restarting", "restarted"]
    assert server.calls == ["restart"]


def test_a_finding_against_a_model_is_none_against_the_whole_server(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick, model = Finding("sick", 0.0, "no answer"), Finding("sick", 0.0, "wrong", ("a",))
    server = Server(findings=[sick, model, sick])
    monkeypatch.setattr(ModelProcess, "kill", lambda _: None)
    with Watchdog(server, events, Limits(watch_s=0)) as watchdog:
        _until(watchdog, lambda: "well" in events)
    assert events == ["sick", "sick", "sick", "well"]
    assert server.calls == []


def test_an_examination_that_ends_in_an_error_of_ours_is_a_finding_and_not_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reasons: list[Field] = []
    server = Server(findings=[RefusedError("the Triton server is not running"), WELL, KeyError("pixels")])
    with Watchdog(server, lambda _, /, **fields: reasons.append(fields["reason"]), Limits(watch_s=0)) as watchdog:
        _until(watchdog, lambda: len(reasons) == 3)
    assert reasons == ["the Triton server is not running", "", "the examination ended in KeyError: 'pixels'"]


def test_the_processes_of_a_sick_model_are_ended(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(findings=[Finding("sick", 30.0, "it stalled", ("a",))])

    def kill(process: ModelProcess) -> None:
        server.living.remove(process)

    monkeypatch.setattr(ModelProcess, "kill", kill)
    with Watchdog(server, events, Limits(watch_s=0)) as watchdog:
        _until(watchdog, lambda: server.calls != [])
    assert server.calls == ["reload a"]
    assert events[:3] == ["sick", "model_died", "model_back"]


def test_a_process_that_hangs_beside_one_that_answers_is_ended_and_brought_back(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(range(0, 10**6, 2 * ANSWERS))
    server = Server()
    hanging = server.living[1]
    # The other processes have worked by another nanosecond whenever they are looked at.
    clock = iter(range(10**6))
    monkeypatch.setattr(ModelProcess, "worked_ns", property(lambda self: 7 if self == hanging else next(clock)))
    monkeypatch.setattr(server, "examine", lambda: Finding("well", 0.01, answered={"a": next(answers), "b": 0}))

    def kill(process: ModelProcess) -> None:
        server.living.remove(process)

    monkeypatch.setattr(ModelProcess, "kill", kill)
    with Watchdog(server, events, Limits(watch_s=0)) as watchdog:
        _until(watchdog, lambda: "model_back" in events)
    assert events[:6] == ["well", "well", "well", "process_hangs", "model_died", "model_back"]
    assert server.calls == ["reload a"]
    assert hanging not in server.living


def test_a_model_that_is_sick_again_after_it_was_loaded_again_restarts_the_server(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    sick = Finding("sick", 1.0, "wrong", ("a",))
    server = Server(findings=[sick, sick, WELL, sick])

    def kill(process: ModelProcess) -> None:
        server.living.remove(process)

    monkeypatch.setattr(ModelProcess, "kill", kill)
    with Watchdog(server, events, Limits(watch_s=0)) as watchdog:
        _until(watchdog, lambda: len(server.calls) == 3)
    assert server.calls == ["reload a", "restart", "reload a"]


@pytest.mark.parametrize("why", [RefusedError("its file is gone"), OSError(errno.ENOSPC, "No space left")], ids=str)
def test_a_model_that_cannot_be_loaded_again_restarts_the_server(events: Events, why: Exception) -> None:
    server = Server(reload_fails=why)
    with Watchdog(server, events) as watchdog:
        server.living.pop()
        watchdog.step()
    assert server.calls == ["reload b", "restart"]
    assert events == ["model_died", "reload_failed", "restarting", "restarted"]


def test_models_that_die_all_the_time_restart_the_server(events: Events) -> None:
    server = Server()
    with Watchdog(server, events, Limits(reloads=2)) as watchdog:
        for _ in range(3):
            server.living = [process for process in server.living if process.model != "b"]
            watchdog.step()
    assert server.calls == ["reload b", "reload b", "restart"]


def test_a_server_that_died_is_restarted(events: Events) -> None:
    server = Server(gone="killed")
    with Watchdog(server, events) as watchdog:
        watchdog.step()
    assert events == ["server_died", "restarting", "restarted"]


@pytest.mark.parametrize("why", [RefusedError("no start"), OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))], ids=str)
def test_a_restart_that_fails_is_tried_again_after_a_while(events: Events, why: Exception) -> None:
    server = Server(gone="killed", restarts_that_fail=2, no_start=why)
    started = time.monotonic()
    with Watchdog(server, events, Limits(pause_s=0.05)) as watchdog:
        watchdog.step()
    assert events == ["server_died", *("restarting", "restart_failed") * 2, "restarting", "restarted"]
    assert time.monotonic() - started >= 0.05 + 0.25


def test_it_gives_up_with_the_last_reason_when_restarts_are_spent(events: Events) -> None:
    server = Server(gone="killed", restarts_that_fail=9)
    with (
        Watchdog(server, events, Limits(restarts=3, pause_s=0)) as watchdog,
        pytest.raises(RefusedError, match="given up after 3 restarts in 10 minutes: no start"),
    ):
        watchdog.run()
    assert server.calls == ["restart"] * 3
    assert events[-1] == "gave_up"


def test_the_budget_comes_back_with_time(events: Events) -> None:
    server = Server()
    with Watchdog(server, events, Limits(restarts=1, window_s=0.05)) as watchdog:
        for _ in range(3):
            server.gone = "killed"
            watchdog.step()
            time.sleep(0.06)
    assert server.calls == ["restart"] * 3


def test_an_examination_from_before_a_reload_counts_for_nothing(events: Events) -> None:
    server = Server(findings=[Finding("sick", 1.0, "met a dead process", ("a", "b"))])
    with Watchdog(server, events, Limits(watch_s=0.2)) as watchdog:
        time.sleep(0.25)
        watchdog.step()  # starts the examination
        server.living.pop()
        time.sleep(0.05)
        watchdog.step()  # sees the death first
        watchdog.step()
    assert events == ["model_died", "model_back"]


def test_an_old_process_is_ended_once_though_its_model_dies_again(
    events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, killed = Server(), list[int]()
    monkeypatch.setattr(ModelProcess, "cpu_s", 0.0)
    monkeypatch.setattr(ModelProcess, "kill", lambda process: killed.append(process.pid))
    with Watchdog(server, events) as watchdog:
        old = server.living[2].pid
        for _ in range(2):
            server.living.pop()
            watchdog.step()
        assert server.calls == ["reload b", "reload b"]
        monkeypatch.setattr(module, "IDLE_S", 0.0)
        watchdog.step()
    assert killed.count(old) == 1


def test_old_processes_are_ended_once_they_are_idle(events: Events, monkeypatch: pytest.MonkeyPatch) -> None:
    server, killed = Server(), list[int]()
    monkeypatch.setattr(module, "IDLE_S", 0.1)
    work = {process.pid: 0.0 for process in server.living}
    monkeypatch.setattr(ModelProcess, "cpu_s", property(lambda process: work.get(process.pid)))
    monkeypatch.setattr(ModelProcess, "kill", lambda process: (killed.append(process.pid), work.pop(process.pid)))
    with Watchdog(server, events) as watchdog:
        dead, old = server.living[3].pid, server.living[2].pid
        server.living.pop()
        work.pop(dead)
        watchdog.step()
        for _ in range(10):  # it still answers what waits
            work[old] += 0.1
            time.sleep(0.02)
            watchdog.step()
        assert killed == []
        time.sleep(0.15)
        watchdog.step()
        watchdog.step()
    assert killed == [old]
    assert server.calls == ["reload b"]
