"""Reports as tables for people, none wider than 80 columns."""

from collections.abc import Iterable, Sequence
from statistics import median

from rich import box
from rich.table import Table

from ..model.tasks import ENSEMBLE, TASK_NAMES
from .noise import LEAST_ROUNDS, ROUNDS_FOR_A_TENTH
from .peer_ratio import FEW_ROUNDS, fastest_proved, times_ours
from .protocol import EngineCase, LoadCase, PeerCase
from .report import (
    CompareReport,
    Comparison,
    EngineReport,
    EngineResult,
    Parity,
    PeerResult,
    Report,
    Skipped,
    Statistics,
)
from .serving_report import Agreement, LoadResult, RateResult, ServingReport
from .timing import NS_PER_MS, Plan

MB = 1_000_000
Warned = EngineResult | PeerResult | LoadResult | RateResult
#: What stands for the name of a network in a reason that several share.
NETWORK = "NETWORK"
LATENCIES = ("p50 ms", "p95 ms", "p99 ms")
CAPTION = "IQR: the middle half of the samples as a share of p50."


def engines_table(report: EngineReport) -> Table:
    """One row an engine, the fastest of each task and batch first."""
    table = plain_table(
        "Networks alone, one caller",
        f"{CAPTION} Parity: equal labels. * what `auto` runs.",
        ("model", "engine", ""),
        (*LATENCIES, "IQR", "slices/s", "parity"),
    )
    for group in _groups(report.results):
        for place, result in enumerate(group):
            case, numbers = result.case, result.statistics
            table.add_row(
                "" if place else f"{_short(case.task)} x{case.batch}",
                _engine(result),
                case.precision,
                *latencies(numbers),
                spread(numbers),
                f"{numbers.throughput_per_s:.1f}",
                _parity(result.parity),
            )
        table.add_section()
    return table


def details_table(report: EngineReport) -> Table:
    """One row an engine: how it starts, what memory it takes, and how far it is from the roof."""
    table = plain_table(
        "Start, memory and roof",
        "Each start in a process of its own. Roof: least time of the layers, and its share of p50.",
        ("model", "engine", ""),
        ("load ms", "first", "peak MB", "GFLOP", "roof ms", "share"),
    )
    for group in _groups(report.results):
        for place, result in enumerate(group):
            fresh, roof = result.fresh, result.roofline
            table.add_row(
                "" if place else f"{_short(result.case.task)} x{result.case.batch}",
                _engine(result),
                result.case.precision,
                *(
                    (f"{fresh.load_ms:.0f}", f"{fresh.first_ms:.1f}", f"{fresh.peak_bytes / MB:.0f}")
                    if fresh
                    else "---"
                ),
                *((f"{roof.flops / 1e9:.2f}", f"{roof.bound_ms:.2f}", f"{roof.share:.0%}") if roof else "---"),
            )
        table.add_section()
    return table


def gpu_table(report: EngineReport) -> Table:
    """One row a way on the GPU: the call taken apart, and the board under steady load."""
    table = plain_table(
        "On the GPU",
        "Medians; a wait after every stage, so the three take longer than a call. Power and energy: the board.",
        ("model", "way"),
        ("p50 ms", "h2d", "compute", "d2h", "MHz", "W", "busy", "mJ/slice"),
    )
    for result in report.results:
        stages, load = result.stages, result.gpu
        if stages is None:
            continue
        table.add_row(
            f"{_short(result.case.task)} x{result.case.batch}",
            f"{result.case.backend} {result.case.precision}{', graph' if result.case.graphs else ''}",
            f"{result.statistics.p50_ms:.2f}",
            *(f"{median(one) / NS_PER_MS:.3f}" for one in (stages.upload_ns, stages.compute_ns, stages.download_ns)),
            *(
                "-" if value is None else f"{value:.0f}"
                for value in (
                    load and load.sm_clock_mhz,
                    load and load.power_w,
                    load and load.utilisation_share and 100 * load.utilisation_share,
                    load and load.energy_j_per_slice and 1000 * load.energy_j_per_slice,
                )
            ),
        )
    return table


def peers_table(report: EngineReport) -> Table:
    """Our fastest way and every peer, for each task and batch, the fastest first; how many times ours is faster."""
    table = plain_table(
        "The same weights by other means, measured in the same turns",
        f"Off: largest difference of a logit from the reference. Ours: the fastest whose\nparity passed. {FEW_ROUNDS}",
        ("model", "by"),
        ("p50 ms", "IQR", "calls", "off", "times ours"),
    )
    for task, batch in dict.fromkeys((one.case.task, one.case.batch) for one in report.peers):
        ours = fastest_proved(report, task, batch)
        rows = [(f"ours: {ours.case.backend} {ours.case.precision}", ours.statistics, "", "1")] if ours else []
        rows += [
            (
                one.case.peer,
                one.statistics,
                "" if one.max_difference is None else f"{one.max_difference:.0e}",
                times_ours(ours, one) if ours else "-",
            )
            for one in report.peers
            if (one.case.task, one.case.batch) == (task, batch)
        ]
        rows.sort(key=lambda row: row[1].p50_ms)
        for place, (who, numbers, off, times) in enumerate(rows):
            name = "" if place else f"{_short(task)} x{batch}"
            table.add_row(name, who, latencies(numbers)[0], spread(numbers), str(numbers.count), off, times)
        table.add_section()
    return table


def comparisons_table(comparisons: Iterable[Comparison]) -> Table:
    """One row a case: how long B takes for each of A's milliseconds, and whether that is more than noise."""
    table = plain_table(
        "B over A",
        "Ratio with its 95 % interval; noise unless all of it lies beyond 1 and the floor.",
        ("case",),
        ("A ms", "B ms", "ratio", "interval", "floor", "verdict"),
    )
    for one in comparisons:
        table.add_row(
            _short_case(one.case),
            f"{one.a_p50_ms:.1f}",
            f"{one.b_p50_ms:.1f}",
            f"{one.ratio:.3f}",
            "-" if one.verdict == "not judged" else f"{one.low:.3f}-{one.high:.3f}",
            f"{one.noise_floor:.1%}",
            one.verdict,
        )
    return table


def comparison_notes(report: CompareReport) -> list[str]:
    """What must be read with a comparison: what was allowed to differ, what only one has, how the machine was."""
    notes = [f"differs, as allowed: {name}" for name in report.varied]
    notes += [f"{which}: {text}" for which, one in (("A", report.a), ("B", report.b)) for text in one.moment.warnings]
    for which, cases in (("A", report.only_in_a), ("B", report.only_in_b)):
        for first in cases[:1]:
            more = f" and {len(cases) - 1} more" if len(cases) > 1 else ""
            notes.append(f"only in {which}: {first}{more}")
    if without := [one for one in report.comparisons if one.relative_to is None]:
        notes.append(
            f"no yardstick for {len(without)} of {len(report.comparisons)} cases (it is the CPU's, and of `bench "
            "engines`): how the machine changed between the reports is unknown, the floor is wide"
        )
    return [*notes, *few_rounds_lines(report.comparisons), *unjudged_lines(report.comparisons)]


def few_rounds_lines(comparisons: Iterable[Comparison]) -> list[str]:
    """Of two separate runs, one line where what is called noise rests on so few rounds that a tenth may hide in it."""
    rounds = [one.rounds or 0 for one in comparisons if one.relative_to is not None and one.verdict == "noise"]
    few = [count for count in rounds if count < ROUNDS_FOR_A_TENTH]
    if not few:
        return []
    return [
        f"{len(few)} of {len(rounds)} verdicts of noise rest on fewer than {ROUNDS_FOR_A_TENTH} rounds (the fewest: "
        f"{min(few)}), in which a tenth may hide: give both runs --repeats {ROUNDS_FOR_A_TENTH * Plan.block} and the "
        "--max-seconds for them"
    ]


def unjudged_lines(comparisons: Iterable[Comparison]) -> list[str]:
    """A line a number of rounds: the cases that they were too few to judge."""
    cases: dict[int | None, list[str]] = {}
    for one in comparisons:
        if one.verdict == "not judged":
            cases.setdefault(one.rounds, []).append(str(one.case))
    return [
        f"could not judge {', '.join(names)}: {count} of at least {LEAST_ROUNDS} rounds: raise --repeats and "
        "--max-seconds, or measure fewer ways at once"
        for count, names in cases.items()
    ]


def summary_table(engines: EngineReport, serving: ServingReport | None) -> Table:
    """The whole story: every network on every engine for one call, then the ensemble, served and in process."""
    batch = min(result.case.batch for result in engines.results)
    table = plain_table(
        f"Corona-Net on this machine, {batch} {'slice' if batch == 1 else 'slices'} a call",
        "MB: the network's ONNX file. Parity: equal labels. * what `auto` runs.",
        ("model", "", "engine"),
        ("MB", "parity", *LATENCIES, "slices/s"),
    )
    for group in _groups(result for result in engines.results if result.case.batch == batch):
        for place, result in enumerate(group):
            table.add_row(
                "" if place else _short(result.case.task),
                result.case.precision,
                _engine(result),
                f"{result.file_bytes / MB:.1f}",
                _parity(result.parity),
                *latencies(result.statistics),
                f"{result.statistics.throughput_per_s:.1f}",
            )
        table.add_section()
    for result, numbers in _ensemble_rows(serving):
        agreement = serving.agreement if serving and result.case.target == "served" else ()
        table.add_row(
            "ensemble",
            "mixed",
            _where(result.case),
            "",
            _agreement(agreement),
            *latencies(numbers),
            f"{numbers.throughput_per_s:.1f}",
        )
    return table


def engine_notes(report: EngineReport) -> list[str]:
    """What must be read with the table: warnings by kind, and what was skipped."""
    named: list[tuple[str, Warned]] = [(str(r.case), r) for r in (*report.results, *report.peers)]
    return [
        *report.protocol.moment.warnings,
        *gather(named),
        *few_rounds_lines(report.comparisons),
        *unjudged_lines(report.comparisons),
        *skipped_lines(report.skipped),
    ]


def machine_line(report: Report) -> str:
    """Where and when: what a person compares before comparing numbers."""
    machine, moment = report.protocol.machine, report.protocol.moment
    busy = "" if moment.load_average is None else f", load {moment.load_average:.1f} at the start"
    gpus = "".join(f", {gpu}" for gpu in machine.gpus)
    return f"{machine.cpu}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB{gpus}{busy}"


def plain_table(title: str, caption: str, words: Iterable[str], numbers: Iterable[str]) -> Table:
    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    for name in words:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _groups(results: Iterable[EngineResult]) -> list[list[EngineResult]]:
    """Results of one task and batch together, the fastest first."""
    groups: dict[tuple[str, int], list[EngineResult]] = {}
    for result in results:
        groups.setdefault((result.case.task, result.case.batch), []).append(result)
    return [sorted(group, key=lambda result: result.statistics.p50_ms) for group in groups.values()]


def _ensemble_rows(serving: ServingReport | None) -> list[tuple[LoadResult, Statistics]]:
    """The served and the in-process target with the largest throughput."""
    found: list[tuple[LoadResult, Statistics]] = []
    for target in ("served", "in_process"):
        answered = [
            (result, result.statistics)
            for result in (serving.results if serving else ())
            if (result.case.target, result.case.model) == (target, ENSEMBLE) and result.statistics is not None
        ]
        if answered:
            found.append(max(answered, key=lambda pair: pair[1].throughput_per_s))
    return found


def _short_case(case: EngineCase | PeerCase | LoadCase) -> str:
    return str(case).replace("_segmentation", "").replace("batch ", "x")


def _short(task: str) -> str:
    return task.removesuffix("_segmentation")


def _engine(result: EngineResult) -> str:
    return f"{result.case.backend} *" if result.chosen else result.case.backend


def _where(case: LoadCase) -> str:
    """An ensemble row's engine: streams, and in process the threads of each."""
    if case.target == "served":
        return f"Triton, {case.concurrency} asking"
    return f"local, {case.concurrency} x {case.threads} thr"


def latencies(numbers: Statistics) -> tuple[str, str, str]:
    p50, p95, p99 = (
        f"{ms:.1f}" if ms < 1000 else f"{ms:.0f}" for ms in (numbers.p50_ms, numbers.p95_ms, numbers.p99_ms)
    )
    return p50, p95, p99


def spread(numbers: Statistics) -> str:
    """Fewer than four samples have no middle half."""
    return f"{numbers.spread:.0%}" if numbers.count >= 4 else "-"


def _parity(parity: Parity | None) -> str:
    if parity is None:
        return "not run"
    if parity.source == "reference":
        return "ref."
    if parity.verdict != "passed" or parity.label_agreement is None:
        return parity.verdict.replace("_", " ")
    return share(parity.label_agreement)


def _agreement(items: Iterable[Agreement]) -> str:
    shares = [item.equal_share for item in items if item.equal_share is not None]
    return share(min(shares)) if shares else ""


def share(share: float) -> str:
    """A share in percent; what is not everything never reads 100 %."""
    return "100%" if share == 1 else f"{min(share, 0.999999):.4%}"


def gather(named: Sequence[tuple[str, Warned]]) -> list[str]:
    """One line a kind of warning: how many results it concerns, and the first of them in full."""
    concerned: dict[str, list[str]] = {}
    for name, result in named:
        for warning in result.warnings:
            kind, _, text = warning.partition(": ")
            concerned.setdefault(kind, []).append(f"{name}: {text}")
    return [f"{kind} in {len(texts)} of {len(named)} results, first {texts[0]}" for kind, texts in concerned.items()]


def skipped_lines(skipped: Iterable[Skipped]) -> list[str]:
    """One line a reason: the ways that it keeps out, and of which networks, whose names in it become NETWORK."""
    tasks_of: dict[tuple[str, str], list[str]] = {}
    for item in skipped:
        task = next((name for name in TASK_NAMES if item.what.startswith(f"{name} ")), "")
        reason = item.reason.replace(task, NETWORK) if task else item.reason
        tasks_of.setdefault((reason, item.what.removeprefix(f"{task} ")), []).append(task)
    ways_of: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (reason, way), tasks in tasks_of.items():
        ways_of.setdefault((reason, tuple(tasks)), []).append(way)
    lines: list[str] = []
    for (reason, tasks), ways in ways_of.items():
        if len(tasks) == 1:
            task = tasks[0]
            lines.append(f"skipped {f'{task} ' if task else ''}{', '.join(ways)}: {reason.replace(NETWORK, task)}")
        else:
            lines.append(f"skipped {', '.join(ways)} ({', '.join(map(_short, tasks))}): {reason}")
    return lines
