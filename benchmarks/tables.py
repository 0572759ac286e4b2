"""Reports as tables for people, none wider than 80 columns."""

from collections.abc import Iterable

from rich import box
from rich.table import Table

from .bench_serving import ENSEMBLE
from .protocol import LoadCase
from .report import EngineReport, EngineResult, Parity, Report, Statistics
from .serving_report import Agreement, LoadResult, RateResult, ServingReport

MB = 1_000_000
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
    named: list[tuple[str, EngineResult | LoadResult | RateResult]] = [
        (f"{r.case.task} {r.case.backend} {r.case.precision} batch {r.case.batch}", r) for r in report.results
    ]
    return gather(named) + [f"skipped {item.what}: {item.reason}" for item in report.skipped]


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


def gather(named: list[tuple[str, EngineResult | LoadResult | RateResult]]) -> list[str]:
    """One line a kind of warning: how many results it concerns, and the first of them in full."""
    concerned: dict[str, list[str]] = {}
    for name, result in named:
        for warning in result.warnings:
            kind, _, text = warning.partition(": ")
            concerned.setdefault(kind, []).append(f"{name}: {text}")
    return [f"{kind} in {len(texts)} of {len(named)} results, first {texts[0]}" for kind, texts in concerned.items()]
