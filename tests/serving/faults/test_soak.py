"""Ten minutes at 80 % of what the server can do: ``CORONANET_SOAK_S=600 pytest tests/serving/faults/test_soak.py``."""

import os
import statistics
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from coronanet.serving.processes import model_processes

from .conftest import Load, Record, Served, ask, serving, slices

SOAK_S = float(os.environ.get("CORONANET_SOAK_S", "0"))
CONCURRENCY = 4
LOAD = 0.8
GROWTH = 0.05


def _memory_mib(served: Served) -> float:
    """What the server, its model processes and `coronanet serve` hold, what they share counted once, in MiB."""
    pids = [served.process.pid, served.server, *(process.pid for process in model_processes(served.server))]
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() for pid in pids]
    return sum(int(line.split()[1]) for lines in rollups for line in lines if line.startswith("Pss:")) / 1024


@pytest.mark.slow
@pytest.mark.timeout(SOAK_S + 300)
@pytest.mark.skipif(not SOAK_S, reason="takes as long as CORONANET_SOAK_S says, in seconds: 600 is the mark")
def test_memory_is_flat_at_80_percent_load(repository: Path, tmp_path: Path, record_property: Record) -> None:
    images = slices(25, size=512)
    with serving(repository, tmp_path) as served:
        Load(served.address, images * 2, CONCURRENCY).run()  # every size of a tensor has been there once
        started = time.monotonic()
        Load(served.address, images * 4, CONCURRENCY).run()
        rate = LOAD * 100 / (time.monotonic() - started)

        ends = time.monotonic() + SOAK_S
        next_s = time.monotonic()
        lock = threading.Lock()
        latencies_s: deque[float] = deque()

        def stream(number: int) -> None:
            nonlocal next_s
            while True:
                with lock:
                    due, next_s = next_s, next_s + 1 / rate
                if due > ends:
                    return
                time.sleep(max(0.0, due - time.monotonic()))
                ask(served.address, images[number])
                latencies_s.append(time.monotonic() - due)  # also what it waited for its turn
                number = (number + 1) % len(images)

        memory: list[float] = []
        with ThreadPoolExecutor(4 * CONCURRENCY) as pool:
            streams = [pool.submit(stream, number) for number in range(4 * CONCURRENCY)]
            while time.monotonic() < ends:
                memory.append(_memory_mib(served))
                time.sleep(min(5.0, SOAK_S / 40))
            for each in streams:
                each.result()
        tenth = len(memory) // 10
        before, after = statistics.mean(memory[tenth : 2 * tenth]), statistics.mean(memory[-tenth:])
        ordered = sorted(latencies_s)
        record_property(
            "figure",
            f"{SOAK_S:.0f} s at {rate:.1f} slices/s ({LOAD:.0%} of the closed loop at concurrency {CONCURRENCY}): "
            f"{len(ordered)} slices, none failed; latency p50 {ordered[len(ordered) // 2] * 1000:.0f} ms, "
            f"p99 {ordered[len(ordered) * 99 // 100] * 1000:.0f} ms; memory {before:.0f} MiB in the second tenth, "
            f"{after:.0f} MiB in the last ({after / before - 1:+.1%})",
        )
        assert served.seen("sick", "model_died", "restarting") == []
        assert after < before * (1 + GROWTH)
