"""`bench study` on the page: how long each stage of a whole study was at work, and what an engine alone would take."""

import statistics

from ...pages import svg
from ..study_report import StudyReport
from ..study_tables import STAGES, study_lines
from .bars import Bar, bars_svg
from .section import Card, Chart, Grid, Part, Section

GIB = 2**30


def study_part(report: StudyReport) -> Part:
    """Sections of one report."""
    runs = report.runs
    elapsed_s = statistics.median(run.elapsed_s for run in runs)
    names = dict.fromkeys(name for run in runs for name in run.stages_s)
    stages = {name: statistics.median(run.stages_s.get(name, 0.0) for run in runs) for name in names}
    engine_s = report.case.slices / report.engine_slices_per_s
    bars = [Bar(STAGES.get(name, name), taken, f"{taken:.2f}") for name, taken in stages.items()]
    bars.append(Bar("the engine alone, for comparison", engine_s, f"{engine_s:.2f}", svg.GREEN))
    chart = bars_svg("Stages of a study", "seconds at work", bars, limit=(elapsed_s, f"whole study: {elapsed_s:.2f} s"))
    peak = max(run.peak_memory_bytes for run in runs)
    cards = [
        Card(f"{report.slices_per_s:.1f}/s", f"slices of a whole study, {report.case}"),
        Card(f"{report.ratio:.2f}", "of the throughput of the engine alone"),
        Card(
            f"{statistics.median(run.time_to_report_s for run in runs):.1f} s",
            "from the start of the process to the report",
        ),
        Card(f"{peak / GIB:.2f} GiB", "of memory at most"),
    ]
    rows = [
        [
            str(number + 1),
            f"{report.case.slices / run.elapsed_s:.1f}",
            f"{run.elapsed_s:.2f}",
            f"{run.loading_s:.2f}",
            f"{run.time_to_report_s:.2f}",
            f"{run.cpu_s:.1f}",
            f"{run.peak_memory_bytes / GIB:.2f}",
        ]
        for number, run in enumerate(runs)
    ]
    grid = Grid(("run",), ("slices/s", "study s", "loading s", "to report s", "CPU s", "peak GiB"), rows)
    says = ["Stages go on beside each other, so they come to more than the whole.", *study_lines(report)]
    return Part(cards, [Section("A whole study", says, [Chart(chart)], [grid], report.protocol.moment.warnings)])
