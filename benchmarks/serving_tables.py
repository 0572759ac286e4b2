"""What `bench serving` prints for people: tables no wider than 80 columns, and what must be read with them."""

from rich.table import Table

from ..model.tasks import ENSEMBLE
from .bench_serving import label
from .serving_report import Limits, LoadResult, RateResult, ServingReport, percentile_ms
from .tables import CAPTION, LATENCIES, gather, latencies, plain_table, spread


def serving_table(report: ServingReport) -> Table:
    """One row a target."""
    models = list(dict.fromkeys(result.case.model for result in report.results))
    table = plain_table(
        f"{models[0] if len(models) == 1 else 'Models'} under closed-loop load",
        CAPTION,
        ("target",),
        (*LATENCIES, "IQR", "slices/s", "sent", "failed"),
    )
    for model in models:
        for result in report.results:
            if result.case.model == model:
                numbers = result.statistics
                table.add_row(
                    _row_name(result),
                    *(latencies(numbers) if numbers else "---"),
                    spread(numbers) if numbers else "-",
                    f"{numbers.throughput_per_s if numbers else 0:.1f}",
                    str(result.requests),
                    str(sum(result.errors.values())),
                )
        table.add_section()
    return table


def rates_table(report: ServingReport) -> Table:
    """One row a rate."""
    table = plain_table(
        "Open loop: requests leave at random times, latency counts from then",
        "late p99: how late the client itself was, which the latencies have in them.",
        ("model", "a second"),
        (*LATENCIES, "late p99", "slices/s", "sent", "lost", "kept up"),
    )
    for model in dict.fromkeys(rate.case.model for rate in report.rates):
        for rate in report.rates:
            if rate.case.model == model:
                numbers = rate.statistics
                unsent = sum(burst.unsent for burst in rate.bursts)
                table.add_row(
                    _short(model),
                    f"{rate.case.rate_per_s:.3g}",
                    *(latencies(numbers) if numbers else "---"),
                    "-" if rate.delay_p99_ms is None else f"{rate.delay_p99_ms:.1f}",
                    f"{numbers.throughput_per_s if numbers else 0:.1f}",
                    str(rate.requests - unsent),
                    str(unsent + sum(rate.errors.values())),
                    "yes" if rate.kept_up else "no",
                )
        table.add_section()
    return table


def limit_lines(report: ServingReport) -> list[str]:
    """The knee of every sweep, and the largest throughput within the budget."""
    lines: list[str] = []
    for limits in report.limits:
        percentile = report.budget.percentile if report.budget else 99
        if limits.knee is None:
            knee = f"no knee: it kept up with none of the rates, at most {limits.peak_per_s:.1f} slices/s"
        else:
            knee = (
                f"knee at {_load(limits, limits.knee, report)}: {limits.knee_per_s:.1f} slices/s, "
                f"p{percentile} {limits.knee_ms:.1f} ms"
            )
        lines.append(f"{limits.model}, {limits.loop} loop: {knee}")
        if report.budget:
            lines.append(f"{limits.model}, {limits.loop} loop: {_within(limits, report)}")
    return lines


def serving_notes(report: ServingReport) -> list[str]:
    """Warnings by kind, the kinds of failure, and where the server does not agree with the chain in process."""
    named: list[tuple[str, LoadResult | RateResult]] = [(label(result.case), result) for result in report.results]
    named += [(rate_label(rate), rate) for rate in report.rates]
    notes = [*report.protocol.moment.warnings, *gather(named)]
    for name, result in named:
        notes += [f"{name}: {count} x {kind}" for kind, count in result.errors.items()]
    for item in report.agreement:
        if item.equal_share is not None and item.equal_share < 1:
            notes.append(f"{item.output}: served and in process differ on {1 - item.equal_share:.2e} of the labels")
        if item.max_difference:
            notes.append(f"{item.output}: served and in process differ by up to {item.max_difference:.1e}")
    return notes


def rate_label(rate: RateResult) -> str:
    """A rate in a few words."""
    step = "" if rate.case.model == ENSEMBLE else f"{rate.case.model} "
    return f"{step}served, {rate.case.rate_per_s:.3g} requests a second"


def ratio_lines(report: ServingReport) -> list[str]:
    """A line a ratio: served over in process, and over what perf_analyzer counted."""
    return [
        f"{'' if ratio.model == ENSEMBLE else ratio.model + ' '}served at concurrency {ratio.concurrency}: "
        f"{ratio.median:.2f} of the {ratio.quantity} of {ratio.against} "
        f"(rounds {ratio.lowest:.2f} to {ratio.highest:.2f})"
        for ratio in report.ratios
    ]


def _row_name(result: LoadResult) -> str:
    if result.case.model == ENSEMBLE:
        return label(result.case)
    return label(result.case).replace("_segmentation", "").replace("concurrency ", "x")


def _short(model: str) -> str:
    return model.replace("_segmentation", "")


def _load(limits: Limits, load: float, report: ServingReport) -> str:
    """A load in words; of an open loop the rate that was asked for, and what its random times came to."""
    if limits.loop == "closed":
        return f"concurrency {load:g}"
    offered = [
        rate.offered_per_s for rate in report.rates if (rate.case.model, rate.case.rate_per_s) == (limits.model, load)
    ]
    came_to = f" ({offered[0]:.1f} slices/s offered)" if offered else ""
    return f"{load:.3g} requests a second{came_to}"


def _within(limits: Limits, report: ServingReport) -> str:
    assert report.budget is not None
    budget = f"p{report.budget.percentile} within {report.budget.latency_ms:g} ms"
    if limits.best is None:
        lowest = _lowest(limits, report)
        return f"no load of this sweep keeps {budget}" + (f": the best is {lowest:.1f} ms" if lowest else "")
    return (
        f"{limits.best_per_s:.1f} slices/s with {budget}, at {_load(limits, limits.best, report)} "
        f"(p{report.budget.percentile} {limits.best_ms:.1f} ms)"
    )


def _lowest(limits: Limits, report: ServingReport) -> float | None:
    """The lowest latency of a sweep, of the percentile that the budget is of."""
    assert report.budget is not None
    results = report.rates if limits.loop == "open" else [r for r in report.results if r.case.target == "served"]
    found = [
        percentile_ms(result.statistics, report.budget.percentile)
        for result in results
        if result.case.model == limits.model and result.statistics
    ]
    return min(found, default=None)
