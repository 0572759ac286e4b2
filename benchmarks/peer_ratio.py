"""How many times as long as ours a peer takes, and whether enough calls stand behind it to be more than a size."""

import numpy as np

from .noise import LEAST_ROUNDS, log_medians, middle
from .report import EngineReport, EngineResult, PeerResult

#: What marks a ratio that rests on too few calls, and what the mark says.
FEW = "†"
FEW_ROUNDS = f"{FEW} fewer than {LEAST_ROUNDS} rounds of calls: read the size alone."


def ratio(ours: EngineResult, peer: PeerResult) -> float:
    """The peer's time over ours, of the rounds that both made, which lie close in time; of all calls where `few`."""
    if is_few(ours, peer):
        return peer.statistics.p50_ms / ours.statistics.p50_ms
    shared = _shared(ours, peer)
    difference = log_medians(peer.rounds_ns[:shared]) - log_medians(ours.rounds_ns[:shared])
    return float(np.exp(middle(difference)))


def is_few(ours: EngineResult, peer: PeerResult) -> bool:
    """Whether the two share fewer rounds than say anything about their noise."""
    return _shared(ours, peer) < LEAST_ROUNDS


def times_ours(ours: EngineResult, peer: PeerResult) -> str:
    """The ratio for a table, marked where it rests on few rounds."""
    return f"{ratio(ours, peer):.2f}{f' {FEW}' if is_few(ours, peer) else ''}"


def fastest_proved(report: EngineReport, task: str, batch: int) -> EngineResult | None:
    """The fastest of ours whose parity passed."""
    own = (one for one in report.results if (one.case.task, one.case.batch) == (task, batch))
    passed = [one for one in own if one.parity is not None and one.parity.verdict == "passed"]
    return min(passed, key=lambda one: one.statistics.p50_ms, default=None)


def _shared(ours: EngineResult, peer: PeerResult) -> int:
    return min(len(ours.rounds_ns), len(peer.rounds_ns))
