"""What `coronanet serve` writes down, and where, with a server that does as it is told."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from coronanet.engines.places import HOME_VARIABLE
from coronanet.serving import event_log
from coronanet.serving.event_log import default_log, events_beside
from coronanet.serving.monitor import Monitor
from coronanet.serving.serve import serve
from coronanet.serving.server import TritonServer
from coronanet.serving.watchdog import Watchdog


class Server:
    """Its port is taken meanwhile, so that it starts on another one, with another log."""

    repository, address, http_address, pid = "triton_repo", "127.0.0.1:1", "127.0.0.1:2", 7
    log: Path
    bundles, instances = dict[str, str](), dict[str, int]()
    no_start: Exception | None = None

    def check_machine(self) -> None:
        self.log = default_log(1)

    def start(self) -> None:
        if self.no_start:
            raise self.no_start
        self.log = default_log(11)

    def stop(self) -> None:
        pass


def _events(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in events_beside(log).read_text().splitlines()]


@pytest.fixture(autouse=True)
def watched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is watched, but what is done between two looks is done once."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))

    def once(_: Watchdog, between: Callable[[], object]) -> None:
        between()
        raise SystemExit(0)

    monkeypatch.setattr(Watchdog, "run", once)


def test_a_port_that_was_chosen_anew_is_the_one_whose_logs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "MAX_BYTES", 500)
    for port in (1, 11):
        default_log(port).parent.mkdir(exist_ok=True)
        default_log(port).write_bytes(b"a" * 501)
    server, announced = Server(), list[Path]()
    with pytest.raises(SystemExit):
        serve(cast(TritonServer, server), Monitor(port=0), announced.append)
    assert announced == [events_beside(default_log(11))]
    assert [event["event"] for event in _events(default_log(11))] == ["ready", "stopping", "stopped"]
    assert default_log(11).stat().st_size == 0, "it is rotated"
    assert default_log(1).stat().st_size == 501, "another server may write there"


def test_a_disk_that_is_full_at_the_start_is_in_the_log_of_events(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.no_start = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        serve(cast(TritonServer, server), Monitor(port=0), lambda _: None)
    assert [event["event"] for event in _events(default_log(1))] == ["starting", "failed", "stopping", "stopped"]
