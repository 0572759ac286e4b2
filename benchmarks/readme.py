"""The README's section on speed, written from what was measured: ``python -m coronanet.benchmarks.readme``."""

from collections.abc import Sequence
from pathlib import Path

from ..engines.places import ROOT
from ..model.tasks import TASK_NAMES, TaskName
from .peer_ratio import FEW, FEW_ROUNDS, fastest_proved, is_few, ratio
from .report import EngineReport, EngineResult, PeerResult, Statistics, read_engines, write_text

MEASUREMENTS = ROOT / "docs" / "measurements"
README = ROOT / "README.md"
BEGIN, END = "<!-- performance: begin, written by benchmarks/readme.py -->", "<!-- performance: end -->"
BATCH = 1
OURS = "**ours, what `auto` runs**"


def newest(folder: Path = MEASUREMENTS) -> Path:
    """The last measurement of engines by date, which begins its name."""
    return sorted(folder.glob("*-engines.json"))[-1]


def section(report: EngineReport, file: str) -> str:
    """Markdown from marker to marker: ours and the peers of one run, and where it was measured.

    Args:
        file: what the README links to, from the root of the checkout.
    """
    tasks: list[TaskName] = [name for name in TASK_NAMES if _ours(report, name) is not None]
    rows = _rows(report, tasks)
    machine, method = report.protocol.machine, report.protocol.method
    busy = report.protocol.moment.busy_share
    lines = [
        BEGIN,
        "One slice of 512 x 512 through each network, its preprocessing and decision left out: median in milliseconds, "
        "and how many times as long as ours, of the rounds that both made. All in turns in one run, "
        f"{report.protocol.moment.started[:10]}, "
        f"on {machine.cpu} with {machine.cores} cores and {machine.memory_bytes / 2**30:.0f} GiB"
        f"{''.join(f', {gpu}' for gpu in machine.gpus)}"
        f"{'' if busy is None else f', {busy:.0%} of its time taken by others when it began'}. "
        f"A shared machine: trust the ratios. [Every sample]({file}).",
        "",
        f"| | {' | '.join(name.replace('_', ' ') for name in tasks)} |",
        f"|---|{'---|' * len(tasks)}",
        *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows),
        "",
        _closing(report, tasks, verb=method.verb),
        END,
    ]
    return "\n".join(lines)


def replace_section(text: str, new: str) -> str:
    """``text`` with what stands between the markers replaced.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected the markers {BEGIN} and {END}")
    return before + new + after


def _rows(report: EngineReport, tasks: Sequence[TaskName]) -> list[tuple[str, list[str]]]:
    ours = {name: one for name in tasks if (one := _ours(report, name)) is not None}
    rows = [(OURS, [f"**{_ms(ours[name].statistics)}** ({_way(ours[name])})" for name in tasks])]
    for peer in dict.fromkeys(one.case.peer for one in report.peers):
        measured = {one.case.task: one for one in report.peers if (one.case.peer, one.case.batch) == (peer, BATCH)}
        cells = [_against(measured.get(name), ours[name]) for name in tasks]
        rows.append((peer, cells))
    return rows


def _ours(report: EngineReport, task: TaskName) -> EngineResult | None:
    """What `auto` runs; where this machine has no ranking, the fastest of those whose parity passed."""
    own = [one for one in report.results if (one.case.task, one.case.batch) == (task, BATCH)]
    return next((one for one in own if one.chosen), fastest_proved(report, task, BATCH))


def _closing(report: EngineReport, tasks: Sequence[TaskName], *, verb: str) -> str:
    roofs = [
        one.roofline.share for name in tasks if (one := _ours(report, name)) is not None and one.roofline is not None
    ]
    floors = [one.noise_floor for one in report.results if one.noise_floor is not None]
    said = [
        f"Measured with `coronanet {verb} --peers`." if report.peers else "Peers in the same run: not measured yet."
    ]
    ours = {name: one for name in tasks if (one := _ours(report, name)) is not None}
    if any(
        is_few(ours[one.case.task], one) for one in report.peers if one.case.batch == BATCH and one.case.task in ours
    ):
        said.append(FEW_ROUNDS)
    if floors:
        said.append(
            f"Halves of this run differ by {sorted(floors)[len(floors) // 2]:.0%} for the engine in the middle, by "
            f"{max(floors):.0%} at most."
        )
    if roofs:
        said.append(
            f"Ours reach {min(roofs):.0%} to {max(roofs):.0%} of the roof that this machine's own best rates set."
        )
    return " ".join(said)


def _against(peer: PeerResult | None, ours: EngineResult) -> str:
    if peer is None:
        return "-"
    few = f" {FEW}" if is_few(ours, peer) else ""
    return f"{_ms(peer.statistics)} ({ratio(ours, peer):.1f} x){few}"


def _way(result: EngineResult) -> str:
    return f"{result.case.backend} {result.case.precision}"


def _ms(numbers: Statistics) -> str:
    return f"{numbers.p50_ms:.1f}"


def main() -> None:
    file = newest()
    new = section(read_engines(file), str(file.relative_to(ROOT)))
    write_text(README, replace_section(README.read_text(encoding="utf-8"), new))


if __name__ == "__main__":
    main()
