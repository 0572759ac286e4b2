"""The README's section on speed, written from what was measured: ``python -m coronanet.benchmarks.readme``."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..engines.open import GPU_BACKENDS
from ..engines.places import ROOT
from ..model.tasks import TASK_NAMES, TaskName
from .peer_ratio import FEW, FEW_ROUNDS, fastest_proved, is_few, ratio
from .report import EngineReport, EngineResult, PeerResult, Statistics, read_engines, write_text

MEASUREMENTS = ROOT / "docs" / "measurements"
README = ROOT / "README.md"
BEGIN, END = "<!-- performance: begin, written by benchmarks/readme.py -->", "<!-- performance: end -->"
BATCH = 1
OURS = "**ours, what `auto` runs**"
NO_GPU = "GPU: not measured by this harness."
#: Since when int8 takes its ranges from slices that no gate looks at (commit f80951a), and what is said of it before.
OWN_SLICES = "2026-11-27T18:50:17+00:00"
SHARED_SLICES = (
    "int8 is as it was exported before its ranges came from slices of their own: the gates that let it pass had looked "
    "at some of the same."
)


def current(folder: Path = MEASUREMENTS) -> str:
    """The section of what lies in a folder of measurements: its newest run without a GPU, and all with one."""
    reports = {path: read_engines(path) for path in sorted(folder.rglob("*-engines.json"))}
    on_gpu = {str(path.relative_to(ROOT)): one for path, one in reports.items() if _gpu_results(one)}
    # The date begins a name.
    newest = [path for path, one in reports.items() if path.parent == folder and not _gpu_results(one)][-1]
    return section(reports[newest], str(newest.relative_to(ROOT)), on_gpu)


def section(report: EngineReport, file: str, on_gpu: Mapping[str, EngineReport]) -> str:
    """Markdown from marker to marker: ours and the peers of one run, where it was measured, and what GPUs came to.

    Args:
        file: what the README links to, from the root of the checkout.
        on_gpu: the runs with results of a GPU, by their files.
    """
    tasks: list[TaskName] = [name for name in TASK_NAMES if _ours(report, name) is not None]
    rows = _rows(report, tasks)
    machine, method = report.protocol.machine, report.protocol.method
    busy = report.protocol.moment.busy_share
    lines = [
        BEGIN,
        "One slice of 512 x 512 through each network, its preprocessing and decision left out: median in milliseconds, "
        "and how many times as long as ours, of the rounds that both made. All in turns in one run, "
        f"{report.protocol.moment.started[:10]}, of source {_short(report.protocol.software.source)}, "
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
        "",
        *(_gpu_lines(on_gpu) or [NO_GPU]),
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


def _gpu_results(report: EngineReport) -> tuple[EngineResult, ...]:
    return tuple(one for one in report.results if one.case.backend in GPU_BACKENDS)


def _gpu_lines(on_gpu: Mapping[str, EngineReport]) -> list[str]:
    """A table a run with a proved way: our fastest on its GPU, and the fastest peer of the same turns."""
    lines: list[str] = []
    for file, whole in on_gpu.items():
        report = whole.model_copy(update={"results": _gpu_results(whole)})
        rows = _gpu_rows(report)
        if not rows:
            continue
        machine = report.protocol.machine
        lines += [
            f"On {', '.join(map(str, machine.gpus))}, {report.protocol.moment.started[:10]}: median in milliseconds, "
            f"copies counted. Every sample: [{Path(file).stem}]({file}).",
            "",
            "| | slices a call | ours | fastest peer |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    return lines[:-1]


def _gpu_rows(report: EngineReport) -> list[str]:
    """A row for each task and batch that a proved way ran."""
    rows: list[str] = []
    for task, batch in dict.fromkeys((one.case.task, one.case.batch) for one in report.results):
        ours = fastest_proved(report, task, batch)
        if ours is None:
            continue
        beside = [one for one in report.peers if (one.case.task, one.case.batch) == (task, batch)]
        peer = min(beside, key=lambda one: one.statistics.p50_ms, default=None)
        name = f" ({peer.case.peer})" if peer else ""
        own = f"**{_ms(ours.statistics)}** ({_way(ours)})"
        rows.append(f"| {task.replace('_', ' ')} | {batch} | {own} | {_against(peer, ours)}{name} |")
    return rows


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
    if report.protocol.moment.started < OWN_SLICES and any(one.case.precision == "int8" for one in ours.values()):
        said.append(SHARED_SLICES)
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


def _short(source: str) -> str:
    """A commit as git shortens it, with the mark behind it; a version as it is."""
    return re.sub(r"^([0-9a-f]{7})[0-9a-f]{33}\b", r"\1", source)


def _ms(numbers: Statistics) -> str:
    return f"{numbers.p50_ms:.1f}" if numbers.p50_ms >= 1 else f"{numbers.p50_ms:.2f}"


def main() -> None:
    write_text(README, replace_section(README.read_text(encoding="utf-8"), current()))


if __name__ == "__main__":
    main()
