"""A measured study as a table: where its time goes, and what it comes to."""

import statistics

from rich.table import Table

from .study_report import StudyReport
from .tables import MB, plain_table

#: What `coronanet predict` says of its stages, in words.
STAGES = {
    "open": "files found, headers read",
    "read": "pixels read and decoded (beside the next two)",
    "wait": "waiting for the networks",
    "place": "masks put in place, components joined",
    "clean": "components cleared",
    "assess": "pixels counted and measured",
    "write": "pictures, masks and reports written",
}


def stages_table(report: StudyReport) -> Table:
    """One row a stage, the median of the runs."""
    table = plain_table(
        f"{report.case}, {report.case.source}",
        "Medians of the runs. Stages that go on beside each other add up to more than the whole.",
        ("stage", ""),
        ("s", "of the whole", "ms a slice"),
    )
    elapsed_s = statistics.median(run.elapsed_s for run in report.runs)
    for stage, words in STAGES.items():
        seconds = statistics.median(run.stages_s.get(stage, 0.0) for run in report.runs)
        share = seconds / elapsed_s
        table.add_row(stage, words, f"{seconds:.2f}", f"{share:.0%}", f"{1e3 * seconds / report.case.slices:.1f}")
    table.add_section()
    table.add_row("", "the whole", f"{elapsed_s:.2f}", "100%", f"{1e3 * elapsed_s / report.case.slices:.1f}")
    return table


def study_lines(report: StudyReport) -> list[str]:
    """What a reader takes away."""
    case, runs = report.case, report.runs
    parts = ", ".join(f"{part} {ms:.1f}" for part, ms in report.engine_parts_ms.items())
    peak = max(run.peak_memory_bytes for run in runs)
    return [
        f"{report.slices_per_s:.1f} slices/s; the engine alone {report.engine_slices_per_s:.1f}; ratio "
        f"{report.ratio:.2f} of the blocks beside each of {len(runs)} runs",
        f"the engine: {case.streams} streams, {case.batch} a call; ms of one slice alone on all cores: {parts}",
        f"time to report {statistics.median(run.time_to_report_s for run in runs):.1f} s from the start of the "
        f"process, of which the networks took {statistics.median(run.loading_s for run in runs):.1f} s to open",
        f"peak memory {peak / MB:.0f} MB; input {report.file_bytes / MB:.0f} MB, whose bytes alone take "
        f"{report.file_read_s:.2f} s to read",
    ]
