"""What `bench waterfall` prints for people: the parts of a request, and its steps side by side."""

from rich.table import Table

from .tables import plain_table
from .waterfall_report import WaterfallReport, WaterfallResult

BAR = 24


def parts_table(report: WaterfallReport) -> Table:
    """One row a part of the critical path, a column a concurrency; what adds up stands below."""
    columns = [f"x{result.case.concurrency} ms" for result in report.results]
    table = plain_table(
        f"{report.results[0].case.model}: where the time of a request goes",
        "Means over all requests. A step counts here only as far as a request waited for it.",
        ("part of the critical path",),
        tuple(cell for name in columns for cell in (name, "")),
    )
    names = dict.fromkeys(part.name for result in report.results for part in result.parts)
    for name in names:
        cells: list[str] = []
        for result in report.results:
            part = next((each for each in result.parts if each.name == name), None)
            cells += [f"{part.mean_ms:.2f}", f"{part.share:.0%}"] if part else ["-", ""]
        table.add_row(name, *cells)
    table.add_section()
    totals = [(sum(part.mean_ms for part in result.parts), result) for result in report.results]
    table.add_row("sum of the parts", *(c for total, r in totals for c in (f"{total:.2f}", f"{total / r.mean_ms:.1%}")))
    table.add_row("seen by the client", *(cell for _, result in totals for cell in (f"{result.mean_ms:.2f}", "")))
    return table


def steps_table(result: WaterfallResult) -> Table:
    """One row a step: when it ran, what it did, how often a request's end waited for it."""
    table = plain_table(
        f"Steps at concurrency {result.case.concurrency}, ms after the request's start",
        "on path: share of requests whose end waited for the step. counted: by Triton's statistics.",
        ("step",),
        ("start", "queue", "copies", "compute", "traced", "counted", "on path"),
    )
    for step in result.steps:
        table.add_row(
            step.model,
            f"{step.start_ms:.2f}",
            f"{step.queue_ms:.2f}",
            f"{step.input_ms + step.output_ms:.2f}",
            f"{step.compute_ms:.2f}",
            "-" if step.traced_ms is None else f"{step.traced_ms:.2f}",
            "-" if step.counted_ms is None else f"{step.counted_ms:.2f}",
            f"{step.on_path:.0%}",
        )
    return table


def waterfall_lines(report: WaterfallReport) -> list[str]:
    """Whether it adds up, and what serving costs, a line each a concurrency."""
    lines: list[str] = []
    for result in report.results:
        sums, at = result.reconciliation, f"concurrency {result.case.concurrency}"
        verdict = "adds up" if sums.adds_up else "DOES NOT ADD UP"
        lines.append(
            f"{at}: {verdict}: the parts come to {sums.accounted:.1%} of what the client saw (worst request "
            f"{sums.worst:.1%} off), {sums.traced} of {sums.requests} requests traced"
        )
        if result.tax:
            tax = result.tax
            lines.append(
                f"{at}: the Triton tax is {tax.tax_ms:+.2f} ms a request ({tax.tax_share:+.0%}): "
                f"{tax.untraced_ms:.2f} ms served against {tax.in_process_ms:.2f} ms {tax.in_process}; tracing itself "
                f"{result.statistics.p50_ms - tax.untraced_ms:+.2f} ms (medians)"
            )
    return lines


def waterfall_notes(report: WaterfallReport) -> list[str]:
    """What must be read with the table."""
    return [
        *report.protocol.moment.warnings,
        *(
            f"concurrency {result.case.concurrency}: {warning}"
            for result in report.results
            for warning in result.warnings
        ),
    ]
