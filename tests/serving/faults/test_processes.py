"""Processes that are killed under load: every slice is answered in the end, as in a run that nobody disturbed."""

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from coronanet.serving.processes import model_processes
from coronanet.serving.watchdog import RELOAD_S

from ..conftest import needs_schedstat
from .conftest import (
    Answer,
    Image,
    Load,
    Record,
    Served,
    ask,
    assert_same,
    http,
    left_by,
    post,
    reload_with,
    serving,
    slices,
)

#: How long the service may be away, on a machine with two cores that are busy.
SERVER_BACK_S = 30.0
#: From the death of a process to the end of the watchdog's next look.
NOTICED_S = 2.0
#: The mark is 10 kills in 2,000 slices; fewer, of the classification alone, tell the same in the time of a test.
KILLS = int(os.environ.get("CORONANET_KILLS", "2"))
SLICES = int(os.environ.get("CORONANET_SLICES", "200"))
PAIR = ("preprocess", "classification", "decide_classification")
REPOSITORY = "repository" if os.environ.get("CORONANET_WHOLE") else "pair_repository"


def _undisturbed(address: str, images: list[Image], different: int = 25) -> list[Answer]:
    return [ask(address, image) for image in images[:different]]


@pytest.mark.timeout(300 + SLICES)
def test_killing_the_busiest_model_process_again_and_again_loses_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, record_property: Record
) -> None:
    with serving(request.getfixturevalue(REPOSITORY), tmp_path) as served:
        images = slices(SLICES)
        expected = _undisturbed(served.address, images)
        load = Load(served.address, images, concurrency=4)
        back: list[float] = []
        with load.running():
            for kill in range(KILLS):
                served.until(lambda kill=kill: len(load.answers) >= SLICES * kill // (KILLS + 1), 900)
                served.busiest.kill()
                back.append(
                    served.until(lambda kill=kill: len(served.seen("model_back")) > kill, _model_back_s(served))
                )
        assert_same(load.answers, expected, SLICES)
        assert served.seen("restarting", "gave_up") == []
        record_property(
            "figure",
            f"{KILLS} kills in {SLICES} slices: model back after {', '.join(f'{s:.1f}' for s in back)} s; "
            f"{load.failures} requests were asked again; the longest wait of a slice {load.longest_s:.1f} s",
        )
    assert left_by(served) == []


def _model_back_s(served: Served) -> float:
    """How long a model may be away: as long as the watchdog gives it, on a machine as slow as this one."""
    return max(RELOAD_S, served.seen("ready")[0]["seconds"]) + NOTICED_S


def _models(served: Served, event: str) -> set[str]:
    return {model for seen in served.seen(event) for model in seen["models"]}


def test_the_last_process_of_a_model_is_brought_back_too(
    pair_repository: Path, tmp_path: Path, record_property: Record
) -> None:
    with serving(pair_repository, tmp_path) as served:
        expected = _undisturbed(served.address, slices(25))
        for process in model_processes(served.server):
            process.kill()
        # The watchdog may look between two of the kills.
        back_s = served.until(lambda: _models(served, "model_back") == {*PAIR}, len(PAIR) * _model_back_s(served))
        record_property("figure", f"all back after {back_s:.1f} s")
        assert _models(served, "model_died") == {*PAIR}
        assert_same(dict(enumerate(_undisturbed(served.address, slices(25)))), expected, 25)


@needs_schedstat
@pytest.mark.timeout(300)
def test_one_of_two_processes_that_hangs_under_load_is_found_and_brought_back(
    pair_repository: Path, tmp_path: Path, record_property: Record
) -> None:
    with serving(pair_repository, tmp_path) as served:
        images = slices(20_000)
        expected = _undisturbed(served.address, images)
        hang = tmp_path / "hang"
        # The first process to see the file takes it away, and hangs.
        hangs = f"Path({str(hang)!r}).unlink(); __import__('threading').Event().wait()"
        reload_with(served, f"with __import__('contextlib').suppress(FileNotFoundError): {hangs}", SERVER_BACK_S)
        load = Load(served.address, images, concurrency=3)
        with load.running():
            hang.touch()
            found_s = served.until(lambda: served.seen("process_hangs"), 60)
            back_s = served.until(lambda: served.seen("model_back"), _model_back_s(served))
            load.stop()
        assert_same(load.answers, expected, len(load.answers))
        assert load.failures, "what it had in hand was asked again"
        assert served.seen("process_hangs")[0]["models"] == ["classification"]
        assert _models(served, "model_died") == {"classification"}
        assert served.seen("sick", "restarting", "gave_up") == []
        record_property(
            "figure",
            f"found after {found_s:.1f} s, back {back_s:.1f} s later; {len(load.answers)} slices answered, "
            f"{load.failures} asked again; the longest wait of a slice {load.longest_s:.1f} s",
        )
    assert left_by(served) == []


def test_a_killed_server_is_restarted_under_load_on_the_same_ports(
    pair_repository: Path, tmp_path: Path, record_property: Record
) -> None:
    with serving(pair_repository, tmp_path) as served:
        images = slices(100)
        expected = _undisturbed(served.address, images)
        load = Load(served.address, images, concurrency=4)
        with load.running():
            served.until(lambda: len(load.answers) > 20, 60)
            os.kill(served.server, signal.SIGKILL)
            back_s = served.until(lambda: served.seen("restarted"), SERVER_BACK_S)
        assert_same(load.answers, expected, 100)
        assert "exit code -9" in served.seen("server_died")[0]["reason"]
        record_property(
            "figure", f"server back after {back_s:.1f} s; the longest wait of a slice {load.longest_s:.1f} s"
        )
    assert left_by(served) == []


def test_a_request_that_ends_this_triton_costs_a_restart(
    pair_repository: Path, tmp_path: Path, record_property: Record
) -> None:
    vast = b'{"inputs": [{"name": "image", "shape": [1, 99999999, 99999999], "datatype": "INT16", "data": [1]}]}'
    with serving(pair_repository, tmp_path) as served:
        expected = ask(served.address, slices(1)[0])
        with suppress(ConnectionError):
            assert http(served.ready["http"], post(vast)) == b""
        back_s = served.until(lambda: served.seen("restarted"), SERVER_BACK_S)
        assert ask(served.address, slices(1)[0]) == expected
        record_property("figure", f"server back after {back_s:.1f} s")


def test_a_server_that_dies_again_and_again_is_given_up_clearly(pair_repository: Path, tmp_path: Path) -> None:
    with serving(pair_repository, tmp_path) as served:
        for restarts in range(4):
            os.kill(served.server, signal.SIGKILL)
            served.until(lambda n=restarts: len(served.seen("restarted", "gave_up")) > n, SERVER_BACK_S)
        assert served.process.wait(20) == 1
        assert [event["event"] for event in served.events[-4:]] == ["gave_up", "failed", "stopping", "stopped"]
        assert (
            "given up after 3 restarts in 10 minutes: it ended with exit code -9" in (tmp_path / "stderr").read_text()
        )
        assert served.process.stdout is not None
        assert served.process.stdout.read() == "", "the one object on stdout was the ready one"
    assert left_by(served) == []


def test_when_all_is_killed_at_once_nothing_stays_in_memory(pair_repository: Path, tmp_path: Path) -> None:
    with serving(pair_repository, tmp_path) as served:
        assert left_by(served)
        victims = [process.pid for process in model_processes(served.server)] + [served.server, served.process.pid]
        for pid in reversed(victims):
            os.kill(pid, signal.SIGKILL)
        served.process.wait()
        deadline = time.monotonic() + 20
        while left_by(served) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert left_by(served) == []
        listed = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
        assert f"coronanet-{served.process.pid}-" not in listed
