"""`bench serving` on the page: latency against load with the budget, the knee, how latencies spread."""

from collections.abc import Sequence

from ...model.tasks import ENSEMBLE
from ...pages import svg
from ..bench_serving import label
from ..serving_report import Limits, LoadResult, RateResult, ServingReport, percentile_ms
from ..serving_tables import limit_lines, rate_label, ratio_lines, serving_notes
from .distribution import Hill, distribution_svg
from .legend import Key
from .lines import Panel, Rule, Series, lines_svg
from .section import Card, Chart, Grid, Part, Section, ms, short

TARGETS = {"served": svg.BLUE, "in_process": svg.GREEN, "perf_analyzer": svg.ORANGE}
NAMES = {"served": "served", "in_process": "in process", "perf_analyzer": "asked by perf_analyzer"}
SHAPES: "dict[str, svg.Shape]" = {"served": "circle", "in_process": "square", "perf_analyzer": "diamond"}
RATE = svg.VERMILION


def serving_part(report: ServingReport) -> Part:
    """Sections of one report."""
    models = list(dict.fromkeys(result.case.model for result in report.results))
    sections: list[Section] = []
    for model in models:
        sections.append(_closed(report, model))
        if rates := [rate for rate in report.rates if rate.case.model == model and rate.statistics]:
            sections.append(_open(report, model, rates))
    sections.append(_spread(report))
    return Part(_cards(report), sections)


def _cards(report: ServingReport) -> list[Card]:
    own = [limits for limits in report.limits if limits.model == ENSEMBLE]
    cards = [
        Card(f"{each.peak_per_s:.1f}/s", "slices a second served at most, closed loop")
        for each in own
        if each.loop == "closed"
    ]
    if report.budget:
        best = max((each.best_per_s for each in own if each.best_per_s is not None), default=None)
        budget = f"p{report.budget.percentile} within {report.budget.latency_ms:g} ms"
        cards.append(Card("-" if best is None else f"{best:.1f}/s", f"slices a second with {budget}"))
    for ratio in report.ratios:
        if ratio.against.startswith("in process"):
            cards.append(
                Card(f"{ratio.median:.2f}", f"of the throughput {ratio.against}, at concurrency {ratio.concurrency}")
            )
            break
    return cards


def _closed(report: ServingReport, model: str) -> Section:
    results = [each for each in report.results if each.case.model == model]
    places = sorted({each.case.concurrency for each in results})
    percentile = report.budget.percentile if report.budget else 99
    latency: list[Series] = []
    throughput: list[Series] = []
    for target in dict.fromkeys(each.case.target for each in results):
        own = [
            (each.case.concurrency, each.statistics)
            for each in results
            if each.case.target == target and each.statistics
        ]
        colour, shape, name = TARGETS[target], SHAPES[target], NAMES[target]
        latency.append(Series(Key(f"{name}, p50", colour, "", shape), [(at, each.p50_ms) for at, each in own]))
        tail = [(at, percentile_ms(each, percentile)) for at, each in own]
        latency.append(Series(Key(f"{name}, p{percentile}", colour, "7 3", shape), tail))
        throughput.append(Series(latency[-2].key, [(at, each.throughput_per_s) for at, each in own]))
    limits = _limits(report, model, "closed")
    knee = [f", knee at {limits.knee:g}"] if limits and limits.knee is not None else []
    panels = [
        Panel("Latency", "concurrency", "ms", latency, places=places, rules=_budget(report)),
        Panel("Throughput" + "".join(knee), "concurrency", "slices a second", throughput, places=places),
    ]
    rows = [_row(each) for each in results]
    head = ("target",), ("p50 ms", "p90 ms", "p95 ms", "p99 ms", "slices/s", "sent", "failed")
    says = [line for line in limit_lines(report) if line.startswith(f"{model}, closed loop")]
    says += ratio_lines(report) if model == ENSEMBLE else []
    title = "Served, closed loop" if model == ENSEMBLE else f"{short(model).capitalize()}, closed loop"
    chart = Chart(lines_svg("Latency and throughput against concurrency", panels))
    return Section(title, says, [chart], [Grid(*head, rows)])


def _open(report: ServingReport, model: str, rates: Sequence[RateResult]) -> Section:
    percentile = report.budget.percentile if report.budget else 99
    points = [(rate.case.rate_per_s, rate.statistics) for rate in rates if rate.statistics]
    behind = frozenset(place for place, rate in enumerate(rates) if not rate.kept_up)
    limits = _limits(report, model, "open")
    rules = _budget(report)
    if limits and limits.knee is not None:
        rules.append(Rule(limits.knee, "knee", across=False))
    median = Key("open loop, p50", RATE, "", "circle")
    tail = Key(f"open loop, p{percentile}", RATE, "7 3", "triangle")
    asked = Key("asked for", svg.AXIS, "2 3", None)
    panels = [
        Panel(
            "Latency, from when a request was meant to leave",
            "requests a second",
            "ms",
            [
                Series(median, [(at, each.p50_ms) for at, each in points], behind),
                Series(tail, [(at, percentile_ms(each, percentile)) for at, each in points], behind),
            ],
            log_y=True,
            rules=rules,
        ),
        Panel(
            "Answered",
            "requests a second",
            "slices a second",
            [
                Series(asked, [(rate.case.rate_per_s, rate.offered_per_s) for rate in rates]),
                Series(median, [(at, each.throughput_per_s) for at, each in points], behind),
            ],
        ),
    ]
    rows = [
        [
            f"{rate.case.rate_per_s:.3g} a second",
            *(_latencies(rate)),
            ms(rate.delay_p99_ms),
            f"{rate.statistics.throughput_per_s if rate.statistics else 0:.1f}",
            str(rate.requests),
            str(sum(burst.unsent for burst in rate.bursts) + sum(rate.errors.values())),
            "yes" if rate.kept_up else "no",
        ]
        for rate in rates
    ]
    head = ("rate",), ("p50 ms", "p90 ms", "p95 ms", "p99 ms", "late p99", "slices/s", "asked", "lost", "kept up")
    says = [
        "Requests leave at the times of a Poisson process, whether or not those before them were answered, so a stall "
        "is charged to every request that it kept waiting. Hollow: the server did not keep up.",
        *(line for line in limit_lines(report) if line.startswith(f"{model}, open loop")),
    ]
    title = "Served, open loop" if model == ENSEMBLE else f"{short(model).capitalize()}, open loop"
    chart = Chart(lines_svg("Latency and answers against the rate of requests", panels))
    note = "late p99: how late this client itself sent, which the latencies have in them; lost: never sent, or failed."
    return Section(title, says, [chart], [Grid(*head, rows, note=note)])


def _spread(report: ServingReport) -> Section:
    hills = [
        Hill(short(label(each.case)), samples, TARGETS[each.case.target])
        for each in report.results
        if (samples := [taken for burst in each.bursts for taken in burst.latencies_ns])
    ]
    hills += [
        Hill(short(rate_label(each)).replace("requests a second", "a second"), samples, RATE)
        for each in report.rates
        if (samples := [taken for burst in each.bursts for taken in burst.latencies_ns])
    ]
    chart = [Chart(distribution_svg("How latencies spread", hills))] if hills else []
    return Section("How latencies spread", charts=chart, notes=serving_notes(report))


def _row(each: LoadResult) -> list[str]:
    return [
        label(each.case),
        *_latencies(each),
        f"{each.statistics.throughput_per_s if each.statistics else 0:.1f}",
        str(each.requests),
        str(sum(each.errors.values())),
    ]


def _latencies(each: LoadResult | RateResult) -> list[str]:
    numbers = each.statistics
    return (
        [ms(value) for value in (numbers.p50_ms, numbers.p90_ms, numbers.p95_ms, numbers.p99_ms)]
        if numbers
        else ["-"] * 4
    )


def _budget(report: ServingReport) -> list[Rule]:
    if report.budget is None:
        return []
    return [Rule(report.budget.latency_ms, f"budget: p{report.budget.percentile} {report.budget.latency_ms:g} ms")]


def _limits(report: ServingReport, model: str, loop: str) -> Limits | None:
    return next((each for each in report.limits if (each.model, each.loop) == (model, loop)), None)
