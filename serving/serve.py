"""What `coronanet serve` does: start a server, say when it is ready, watch it, and write down what happens."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from ..model.errors import CoronanetError
from .event_log import Emit, EventLog, Field, events_beside, prune, rotate
from .monitor import Monitor
from .server import TritonServer
from .watchdog import Watchdog

#: A server that is well says so this often in the log of events, and a busy one that it is busy.
HEARTBEAT_S = 600.0


def serve(server: TritonServer, monitor: Monitor, ready: Callable[[Path], None]) -> NoReturn:
    """Start the server, call ``ready`` with the file of its events, and watch it until it is told to stop.

    The server is always stopped, and what it left on this machine removed. The ``monitor`` hears what happens.

    Raises:
        CoronanetError, OSError: it could not be started, or the monitor could not listen.
        RefusedError: it could not be brought back.
        SystemExit: as the handler of a signal raises it.
    """
    server.check_machine()
    events = EventLog(events_beside(server.log))
    prune()
    started = time.monotonic()
    write = sparse(events)

    def emit(event: str, /, **fields: Field) -> None:
        if event in ("ready", "restarted"):
            monitor.serves(server.bundles, server.instances)
        monitor.hear(event, **fields)
        write(event, **fields)

    try:
        emit("starting", repository=str(server.repository), grpc=server.address, http=server.http_address)
        with monitor:
            server.start()
            # A port that was chosen before may have been taken, and the log is another one's then.
            events.follow(events_beside(server.log))
            emit("ready", seconds=round(time.monotonic() - started, 2), pid=server.pid)
            ready(events.path)
            with Watchdog(server, emit) as watchdog:
                watchdog.run(between=lambda: rotate(server.log))
    except (CoronanetError, OSError) as error:
        emit("failed", reason=str(error))
        raise
    finally:
        emit("stopping")
        started = time.monotonic()
        server.stop()
        emit("stopped", seconds=round(time.monotonic() - started, 2))
        events.close()


def sparse(emit: Emit, every_s: float = HEARTBEAT_S) -> Emit:
    """Passes events on, but of those that repeat the last examination's only one every ``every_s`` seconds."""
    last, written_s = "", 0.0

    def passed(event: str, /, **fields: Field) -> None:
        nonlocal last, written_s
        now = time.monotonic()
        if event in ("well", "busy") and event == last and now < written_s + every_s:
            return
        if event in ("well", "busy", "sick"):
            last, written_s = event, now
        emit(event, **fields)

    return passed
