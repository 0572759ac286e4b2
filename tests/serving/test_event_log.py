"""Events are one JSON object a line, in files that do not grow without end, and a full disk stops nothing."""

import json
import os
import time
from pathlib import Path

import pytest
from coronanet.engines.places import HOME_VARIABLE
from coronanet.serving import event_log
from coronanet.serving.event_log import EventLog, default_log, prune, rotate
from coronanet.serving.serve import sparse


def test_one_object_a_line_with_the_time(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "logs" / "events.jsonl")
    log("model_died", models=["classification"], seconds=1.5)
    log("gave_up", reason="two\nlines")
    log.close()
    first, second = map(json.loads, log.path.read_text().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {"event": "model_died", "models": ["classification"], "seconds": 1.5}
    assert second["reason"] == "two\nlines"


def test_the_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_BYTES", 1000)
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(200):
        log("event", number=number)
    log.close()
    assert {path.name for path in tmp_path.iterdir()} == {"events.jsonl", *(f"events.jsonl.{n}" for n in (1, 2, 3))}
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert json.loads(log.path.read_text().splitlines()[-1])["number"] == 199


def test_a_disk_that_is_full_costs_lines_and_not_the_server(capsys: pytest.CaptureFixture[str]) -> None:
    log = EventLog(Path("/dev/full"))
    log("ready", seconds=1)
    log.close()
    assert json.loads(capsys.readouterr().err)["event"] == "ready"


def test_the_log_of_another_process_is_emptied_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_BYTES", 100)
    log = tmp_path / "triton.log"
    assert not rotate(log), "it is not there"
    with log.open("ab") as writer:
        for number in range(5):
            writer.write(f"{number}".encode() * 101)
            writer.flush()
            assert rotate(log)
            assert not rotate(log)
            writer.write(b"after ")
            writer.flush()
            assert log.read_bytes() == b"after "
            log.write_bytes(b"")
    kept = {path.name: path.read_bytes()[:1] for path in tmp_path.iterdir()}
    assert kept == {"triton.log": b"", "triton.log.1": b"4", "triton.log.2": b"3", "triton.log.3": b"2"}


def test_a_log_that_cannot_be_emptied_does_not_end_the_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_BYTES", 0)
    # A folder, which nobody can open to write, not even root.
    (tmp_path / "triton.log" / "entry").mkdir(parents=True)
    assert not rotate(tmp_path / "triton.log")


def test_events_go_on_in_another_file(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "triton-1-events.jsonl")
    log("starting")
    log.follow(log.path)
    log.follow(tmp_path / "other" / "triton-2-events.jsonl")
    log("ready")
    log.close()
    events = [json.loads(path.read_text())["event"] for path in (tmp_path / "triton-1-events.jsonl", log.path)]
    assert events == ["starting", "ready"]


def test_the_logs_of_servers_long_gone_go_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    files = {
        "triton-8001.log": 40,
        "triton-8001.log.1": 50,
        "triton-8001-events.jsonl": 40,
        # A Triton that is well is silent, and only its events tell that it lives.
        "triton-8011.log": 40,
        "triton-8011-events.jsonl": 0,
        "triton-notes.txt": 400,
        "study.nii.gz": 400,
    }
    folder = default_log(8001).parent
    folder.mkdir()
    for name, days in files.items():
        (folder / name).touch()
        then = time.time() - days * 86400
        os.utime(folder / name, (then, then))
    prune()
    assert {path.name for path in folder.iterdir()} == {name for name in files if "8001" not in name}


def test_what_repeats_is_written_once() -> None:
    seen: list[str] = []
    emit = sparse(lambda event, /, **_: seen.append(event), every_s=3600)
    for event in ("well", "well", "busy", "busy", "well", "sick", "sick", "model_died", "well"):
        emit(event)
    assert seen == ["well", "busy", "well", "sick", "sick", "model_died", "well"]
