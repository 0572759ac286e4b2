"""How peers are held against ours: of the rounds that both made, and marked where those are few."""

from collections.abc import Callable

import pytest
from coronanet.benchmarks.page.build import build_page
from coronanet.benchmarks.peer_ratio import FEW, fastest_proved, ratio, times_ours
from coronanet.benchmarks.protocol import PeerCase
from coronanet.benchmarks.report import EngineReport, EngineResult, PeerResult, Statistics
from coronanet.benchmarks.tables import engine_notes, peers_table
from coronanet.benchmarks.timing import NS_PER_MS, Rounds
from rich.console import Console

Rounded = tuple[tuple[int, ...], ...]


def rounds(*milliseconds: float) -> Rounded:
    """Rounds of two calls each."""
    return tuple((round(ms * NS_PER_MS),) * 2 for ms in milliseconds)


@pytest.fixture
def ours(engines: EngineReport) -> Callable[..., EngineResult]:
    def make(*milliseconds: float) -> EngineResult:
        taken = rounds(*milliseconds)
        update = {"rounds_ns": taken, "statistics": Statistics.of(Rounds(taken).samples)}
        return engines.results[0].model_copy(update=update)

    return make


def theirs(*milliseconds: float, warnings: tuple[str, ...] = ()) -> PeerResult:
    taken = rounds(*milliseconds)
    return PeerResult(
        case=PeerCase(task="lung_segmentation", peer="torch eager", batch=1, threads=None),
        protocol_sha256="0",
        description="",
        max_difference=0.0,
        warm_up_ns=(),
        rounds_ns=taken,
        statistics=Statistics.of(Rounds(taken).samples),
        noise_floor=None,
        warnings=warnings,
    )


def test_rounds_that_only_one_made_do_not_count(ours: Callable[..., EngineResult]) -> None:
    # The machine is twice as slow after the fourth round, when the peer's time was spent.
    own, peer = ours(10, 10, 10, 10, *[20] * 16), theirs(30, 30, 30, 30)
    assert ratio(own, peer) == pytest.approx(3)
    assert times_ours(own, peer) == "3.00"


def test_few_rounds_are_marked_and_all_their_calls_taken(ours: Callable[..., EngineResult]) -> None:
    assert times_ours(ours(10, 10, 20, 20, 20), theirs(30, 30, 30)) == f"1.50 {FEW}"


def test_only_a_way_that_passed_stands_for_ours(engines: EngineReport, ours: Callable[..., EngineResult]) -> None:
    refused = ours(1, 1, 1, 1)
    assert refused.parity is not None
    refused = refused.model_copy(update={"parity": refused.parity.model_copy(update={"verdict": "refused"})})
    slow = ours(10, 10, 10, 10)
    report = engines.model_copy(update={"results": (refused, slow)})
    assert fastest_proved(report, "lung_segmentation", 1) == slow
    assert fastest_proved(report, "lung_segmentation", 2) is None


def test_table_page_and_notes_tell_of_peers(engines: EngineReport, ours: Callable[..., EngineResult]) -> None:
    peer = theirs(30, 30, 30, warnings=("not warm: durations had not settled after 3 calls",))
    report = engines.model_copy(update={"results": (ours(10, 10, 10, 10),), "peers": (peer,)})
    console = Console(width=80, record=True)
    console.print(peers_table(report))
    said = console.export_text()
    assert f"3.00 {FEW}" in said
    assert "fewer than 4 rounds" in said
    page = build_page([report])
    assert f"3.00 {FEW}" in page
    assert "fewer than 4 rounds" in page
    assert any(
        note.startswith("not warm in 1 of 2 results, first lung_segmentation torch eager")
        for note in engine_notes(report)
    )
