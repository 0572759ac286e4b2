"""`bench engines` on the page: spread, throughput against batch, the front of precision and speed, the roofline."""

from collections.abc import Sequence
from statistics import median

from ...engines.open import GPU_BACKENDS
from ...pages import svg
from ..peer_ratio import FEW_ROUNDS, fastest_proved, times_ours
from ..report import Ceilings, Comparison, EngineReport, EngineResult, PeerResult
from ..tables import MB, engine_notes, share
from ..timing import NS_PER_MS
from .distribution import Hill, distribution_svg
from .legend import Key
from .lines import Panel, Series, lines_svg
from .scatter import Plot, Roof, Spot, scatter_svg
from .section import Card, Chart, Grid, Part, Section, ms, short

BACKENDS = {
    "torch": svg.PURPLE,
    "onnxruntime": svg.BLUE,
    "openvino": svg.GREEN,
    "torch_cuda": svg.ORANGE,
    "onnxruntime_cuda": svg.SKY,
    "tensorrt": svg.VERMILION,
}
SHAPES: "dict[str, svg.Shape]" = {"fp32": "circle", "fp16": "square", "bf16": "triangle", "int8": "diamond"}
DASHES = {"fp32": "", "fp16": "7 3", "bf16": "2 3", "int8": "9 3 2 3"}
#: Where a way whose labels all equal the reference's is drawn: nobody looked at a billion of them.
NONE_DIFFER = 1e-8
PER_MILLION = 1e6


def engines_part(report: EngineReport) -> Part:
    """Sections of one report."""
    tasks = list(dict.fromkeys(result.case.task for result in report.results))
    least = min(result.case.batch for result in report.results)
    sections = [_networks(report, tasks, least)]
    if len({result.case.batch for result in report.results}) > 1:
        sections.append(_batches(report, tasks))
    sections += _fronts(report, tasks, least)
    sections += [section for ceilings in report.ceilings if (section := _roofline(report, ceilings, least))]
    if report.comparisons:
        grid = comparisons_grid(report.comparisons)
        sections.append(Section("B over A: other bundles, or a baseline", grids=[grid]))
    return Part(_cards(report, tasks, least), sections)


def way(result: EngineResult) -> str:
    """Backend and precision, and what else tells two ways apart."""
    graphs = {None: "", True: " graph", False: " no graph"}[result.case.graphs]
    return f"{result.case.backend} {result.case.precision}{graphs}"


def _cards(report: EngineReport, tasks: Sequence[str], batch: int) -> list[Card]:
    cards: list[Card] = []
    for task in tasks:
        chosen = [each for each in _of(report, task, batch) if each.chosen] or _of(report, task, batch)
        best = min(chosen, key=lambda each: each.statistics.p50_ms)
        cards.append(Card(f"{ms(best.statistics.p50_ms)} ms", f"{short(task)}: {way(best)}, p50 of a call of {batch}"))
    return cards


def _networks(report: EngineReport, tasks: Sequence[str], batch: int) -> Section:
    charts: list[Chart] = []
    rows: list[list[str]] = []
    marked: set[int] = set()
    for task in tasks:
        group = _of(report, task, batch)
        hills = [
            Hill(way(each), each.rounds.samples.durations_ns, BACKENDS.get(each.case.backend, svg.GREY))
            for each in group
        ]
        peers = [each for each in report.peers if (each.case.task, each.case.batch) == (task, batch)]
        hills += [Hill(each.case.peer, each.rounds.samples.durations_ns, "#8a929c") for each in peers]
        charts.append(Chart(distribution_svg(f"Latencies of {short(task)}", hills), f"{short(task)}, batch {batch}"))
        ours = fastest_proved(report, task, batch)
        for each in sorted([*group, *peers], key=lambda one: one.statistics.p50_ms):
            if isinstance(each, EngineResult) and each.chosen:
                marked.add(len(rows))
            times = "-" if ours is None or isinstance(each, EngineResult) else times_ours(ours, each)
            rows.append([*_row(task, each), times])
    says = [
        f"Every network alone, {_slices(batch)} a call, one caller. Hills hold every sample, percentiles are marked."
    ]
    head = (
        ("network", "engine"),
        ("MB", "p50 ms", "p95 ms", "p99 ms", "slices/s", "labels equal", "noise floor", "times ours"),
    )
    note = (
        "Set apart: what `auto` runs on this machine. The noise floor is what an A/A comparison in this run shows. "
        f"Times ours: over the fastest of ours whose parity passed, of the rounds that both made. {FEW_ROUNDS}"
    )
    grids = [Grid(*head, rows, frozenset(marked), note), *_starts(report), *_on_gpu(report)]
    return Section("Networks", says, charts, grids, engine_notes(report))


def _starts(report: EngineReport) -> list[Grid]:
    """How the engines start and what memory they take, where that was measured."""
    rows = [
        [
            f"{short(each.case.task)} {way(each)}",
            *(f"{value:.0f}" for value in (fresh.import_ms, fresh.load_ms)),
            f"{fresh.first_ms:.1f}",
            f"{(fresh.peak_bytes - fresh.base_bytes) / MB:.0f}",
            "-" if fresh.gpu_bytes is None else f"{fresh.gpu_bytes / MB:.0f}",
        ]
        for each in report.results
        if (fresh := each.fresh)
    ]
    head = ("import ms", "load ms", "first ms", "peak MB", "GPU MB")
    note = (
        "Each start in a process of its own. Peak: the most memory, less that of the process before its packages. GPU: "
        "what the used memory of the whole board grew by."
    )
    return [Grid(("start of",), head, rows, note=note)] if rows else []


def _on_gpu(report: EngineReport) -> list[Grid]:
    """A call on the GPU taken apart, and the board meanwhile, where that was measured."""
    rows: list[list[str]] = []
    for each in report.results:
        if each.stages is None:
            continue
        stages, load = each.stages, each.gpu
        board = (load.sm_clock_mhz, load.power_w, load.temperature_c) if load else (None,) * 3
        energy = load.energy_j_per_slice if load else None
        rows.append(
            [
                f"{short(each.case.task)} {way(each)} batch {each.case.batch}",
                *(
                    f"{median(one) / NS_PER_MS:.3f}"
                    for one in (stages.upload_ns, stages.compute_ns, stages.download_ns)
                ),
                *("-" if value is None else f"{value:.0f}" for value in board),
                "-" if energy is None else f"{1000 * energy:.1f}",
            ]
        )
    head = ("upload ms", "compute ms", "download ms", "MHz", "W", "°C", "mJ a slice")
    return [Grid(("on the GPU",), head, rows, note="Medians, with a wait after every stage.")] if rows else []


def _row(task: str, each: EngineResult | PeerResult) -> list[str]:
    numbers = each.statistics
    ours = isinstance(each, EngineResult)
    parity = each.parity if ours else None
    agreement = "-" if parity is None or parity.label_agreement is None else share(parity.label_agreement)
    if parity is not None and parity.source == "reference":
        agreement = "reference"
    if parity is not None and parity.verdict == "refused":
        agreement += " refused"
    return [
        short(task),
        way(each) if ours else each.case.peer,
        f"{each.file_bytes / MB:.1f}" if ours else "-",
        ms(numbers.p50_ms),
        ms(numbers.p95_ms),
        ms(numbers.p99_ms),
        f"{numbers.throughput_per_s:.1f}",
        agreement,
        "-" if each.noise_floor is None else f"{each.noise_floor:.1%}",
    ]


def _batches(report: EngineReport, tasks: Sequence[str]) -> Section:
    batches = sorted({result.case.batch for result in report.results})
    panels: list[Panel] = []
    for task in tasks:
        own = [each for each in report.results if each.case.task == task]
        series = [
            Series(
                Key(
                    name,
                    BACKENDS.get(first.case.backend, svg.GREY),
                    DASHES[first.case.precision],
                    SHAPES[first.case.precision],
                ),
                [(each.case.batch, each.statistics.throughput_per_s) for each in own if way(each) == name],
            )
            for name, first in {way(each): each for each in own}.items()
        ]
        panels.append(Panel(short(task), "slices a call", "slices a second", series, places=batches))
    says = ["What a larger batch brings: slices a second of one caller."]
    return Section("Throughput against batch", says, [Chart(lines_svg("Throughput against batch", panels))])


def _fronts(report: EngineReport, tasks: Sequence[str], batch: int) -> list[Section]:
    plots: list[Plot] = []
    for task in tasks:
        spots = [spot for each in _of(report, task, batch) if (spot := _spot(each))]
        if spots:
            plots.append(
                Plot(
                    short(task),
                    "p50 of a call, ms",
                    "labels that differ, of a million",
                    spots,
                    NONE_DIFFER * PER_MILLION,
                )
            )
    if not plots:
        return []
    says = [
        "Left and low is good. The broken line is the front: what lies on it, nothing beats in both. Hollow: refused "
        "by a gate, or never proved here, and so on no front. Labels are held against the float32 reference.",
    ]
    chart = scatter_svg("Precision against accuracy against speed", plots, stairs=True)
    return [Section("Precision, accuracy, speed", says, [Chart(chart)])]


def _spot(each: EngineResult) -> Spot | None:
    parity = each.parity
    if parity is None or parity.label_agreement is None:
        return None
    differ = 1 - parity.label_agreement
    key = Key(way(each), BACKENDS.get(each.case.backend, svg.GREY), None, SHAPES[each.case.precision])
    words = f"{way(each)}: {each.statistics.p50_ms:.1f} ms, {differ * PER_MILLION:.3g} of a million labels differ"
    return Spot(each.statistics.p50_ms, differ * PER_MILLION, key, words, parity.verdict == "passed")


def _roofline(report: EngineReport, ceilings: Ceilings, batch: int) -> Section | None:
    on_gpu = ceilings.device == "gpu"
    spots: list[Spot] = []
    rows: list[list[str]] = []
    for each in report.results:
        roof = each.roofline
        if roof is None or (each.case.backend in GPU_BACKENDS) != on_gpu:
            continue
        seconds = roof.bound_ms / roof.share / 1000
        key = Key(way(each), BACKENDS.get(each.case.backend, svg.GREY), None, SHAPES[each.case.precision])
        name = f"{short(each.case.task)} {way(each)} batch {each.case.batch}"
        spots.append(Spot(roof.flops / roof.bytes, roof.flops / seconds, key, f"{name}: {roof.share:.0%} of the roof"))
        if each.case.batch > batch:
            continue
        rows.append(
            [
                name,
                f"{roof.flops / 1e9:.2f}",
                f"{roof.bytes / 1e6:.1f}",
                f"{roof.flops / roof.bytes:.1f}",
                ms(roof.bound_ms),
                ms(each.statistics.p50_ms),
                f"{roof.share:.0%}",
            ]
        )
    if not spots:
        return None
    roofs = [
        Roof(f"{precision}: {svg.number(round(flops / 1e9))} GFLOP/s", ceilings.bytes_per_s, flops)
        for precision, flops in ceilings.flops_per_s.items()
    ]
    fastest = max((level.bytes_per_s for level in ceilings.memory), default=0.0)
    near = f" (of its caches up to {fastest / 1e9:.3g} GB/s)" if fastest > ceilings.bytes_per_s else ""
    plot = Plot(ceilings.device.upper(), "operations a byte", "operations a second", spots, roofs=roofs)
    says = [
        f"What this {ceilings.device.upper()} was seen to reach in this run: {ceilings.bytes_per_s / 1e9:.3g} GB/s of "
        f"memory{near}, and in computing what the flat lines say. Below its roof a point has time left to gain.",
    ]
    grid = Grid(
        ("network",), ("GFLOP", "MB", "FLOP/B", "bound ms", "p50 ms", "of the roof"), rows,
        note="The smallest batch. The bound is the sum over the layers of the larger of computing and moving data.",
    )  # fmt: skip
    return Section("Roofline", says, [Chart(scatter_svg("Roofline", [plot], height=330))], [grid])


def comparisons_grid(comparisons: Sequence[Comparison]) -> Grid:
    """A row for each: B over A, and what that is called."""
    rows = [
        [
            str(each.case),
            f"{each.ratio:.3f}",
            "-" if each.verdict == "not judged" else f"{each.low:.3f} to {each.high:.3f}",
            f"{each.noise_floor:.1%}",
            each.verdict,
        ]
        for each in comparisons
    ]
    return Grid(("case",), ("B over A", "95 % interval", "noise floor", "verdict"), rows)


def _of(report: EngineReport, task: str, batch: int) -> list[EngineResult]:
    found = [each for each in report.results if (each.case.task, each.case.batch) == (task, batch)]
    return sorted(found, key=lambda each: each.statistics.p50_ms)


def _slices(count: int) -> str:
    return "one slice" if count == 1 else f"{count} slices"
