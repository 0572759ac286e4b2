"""`bench waterfall` on the page."""

from ..waterfall_report import WaterfallReport, WaterfallResult
from ..waterfall_tables import waterfall_lines, waterfall_notes
from .fall import fall_svg
from .section import Card, Chart, Grid, Part, Section, short


def waterfall_part(report: WaterfallReport) -> Part:
    """Sections of one report."""
    cards = [
        Card(
            f"{each.reconciliation.accounted:.1%}",
            f"of a request's time accounted for at concurrency {each.case.concurrency}",
        )
        for each in report.results
    ]
    cards += [
        Card(
            f"{each.tax.tax_ms:+.1f} ms",
            f"Triton tax at concurrency {each.case.concurrency}, {each.tax.tax_share:+.0%}",
        )
        for each in report.results
        if each.tax
    ]
    says = [
        "The bar is the critical path: what the end of a request waited for, every moment in one part. Steps run side "
        "by side where they can; those that nothing waited for are pale and cost nothing.",
        *waterfall_lines(report),
    ]
    charts = [Chart(fall_svg(each), f"concurrency {each.case.concurrency}") for each in report.results]
    section = Section(
        f"Where the time of a request goes: {report.results[0].case.model}",
        says,
        charts,
        [_parts(report), *(_steps(each) for each in report.results)],
        waterfall_notes(report),
    )
    return Part(cards, [section])


def _parts(report: WaterfallReport) -> Grid:
    names = list(dict.fromkeys(part.name for result in report.results for part in result.parts))
    rows: list[list[str]] = []
    for name in names:
        cells: list[str] = []
        for result in report.results:
            part = next((each for each in result.parts if each.name == name), None)
            cells += [f"{part.mean_ms:.2f}", f"{part.share:.1%}"] if part else ["-", "-"]
        rows.append([short(name), *cells])
    sums = [sum(part.mean_ms for part in result.parts) for result in report.results]
    pairs = list(zip(sums, report.results, strict=True))
    rows.append(
        [
            "sum of the parts",
            *(cell for total, each in pairs for cell in (f"{total:.2f}", f"{total / each.mean_ms:.1%}")),
        ]
    )
    rows.append(["seen by the client", *(cell for _, each in pairs for cell in (f"{each.mean_ms:.2f}", "100%"))])
    heads = [
        cell
        for each in report.results
        for cell in (f"x{each.case.concurrency}, ms", f"x{each.case.concurrency}, share")
    ]
    return Grid(("part of the critical path, mean",), heads, rows, frozenset({len(names), len(names) + 1}))


def _steps(result: WaterfallResult) -> Grid:
    rows = [
        [
            short(step.model),
            *(
                f"{value:.2f}"
                for value in (step.start_ms, step.queue_ms, step.input_ms + step.output_ms, step.compute_ms)
            ),
            *("-" if value is None else f"{value:.2f}" for value in (step.traced_ms, step.counted_ms)),
            f"{step.on_path:.0%}",
        ]
        for step in result.steps
    ]
    note = (
        "traced: queue, copies and compute by the trace; counted: the same by Triton's statistics, which know no trace."
    )
    head = ("start ms", "queue ms", "copies ms", "compute ms", "traced ms", "counted ms", "on path")
    return Grid((f"step at concurrency {result.case.concurrency}",), head, rows, note=note)
