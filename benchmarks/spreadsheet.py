"""Reports as CSV: one line a result, the same columns for every kind of report, so that sheets can be put together."""

import csv
import io
from collections.abc import Iterable, Sequence

from .report import EngineReport, Report, Statistics
from .serving_report import ServingReport
from .study_report import StudyReport
from .waterfall_report import WaterfallReport

#: Latencies in milliseconds, throughput in slices a second; ``load`` is streams, or requests a second of an open loop.
COLUMNS: tuple[str, ...] = (
    "verb",
    "started",
    "machine",
    "model",
    "target",
    "engine",
    "precision",
    "batch",
    "loop",
    "load",
    "requests",
    "failed",
    "p50_ms",
    "p90_ms",
    "p95_ms",
    "p99_ms",
    "mean_ms",
    "min_ms",
    "max_ms",
    "iqr_ms",
    "throughput_per_s",
    "protocol_sha256",
)
NUMBERS = ("p50_ms", "p90_ms", "p95_ms", "p99_ms", "mean_ms", "min_ms", "max_ms", "iqr_ms", "throughput_per_s")


def to_csv(reports: Sequence[Report]) -> str:
    """The results of all reports, under one line of names. A cell that does not apply is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for report in reports:
        common = {
            "verb": report.protocol.method.verb,
            "started": report.protocol.moment.started,
            "machine": report.protocol.machine.cpu,
        }
        writer.writerows(common | row for row in _rows(report))
    return text.getvalue()


def _rows(report: Report) -> Iterable[dict[str, object]]:
    if isinstance(report, EngineReport):
        for result in report.results:
            yield {
                "model": result.case.task,
                "target": "engine",
                "engine": result.case.backend,
                "precision": result.case.precision,
                "batch": result.case.batch,
                "requests": result.statistics.count,
                "protocol_sha256": result.protocol_sha256,
                **_numbers(result.statistics),
            }
    elif isinstance(report, ServingReport):
        for loop, loads in (("closed", report.results), ("open", report.rates)):
            for load in loads:
                yield {
                    "model": load.case.model,
                    "target": load.case.target,
                    "batch": load.case.batch,
                    "loop": loop,
                    "load": load.case.concurrency if load.case.kind == "load" else f"{load.case.rate_per_s:.6g}",
                    "requests": load.requests,
                    "failed": sum(load.errors.values()),
                    "protocol_sha256": load.protocol_sha256,
                    **_numbers(load.statistics),
                }
    elif isinstance(report, StudyReport):
        yield {
            "model": str(report.case),
            "target": "study",
            "batch": report.case.batch,
            "load": report.case.streams,
            "requests": len(report.runs),
            "throughput_per_s": f"{report.slices_per_s:.6g}",
            "protocol_sha256": report.protocol_sha256,
        }
    elif isinstance(report, WaterfallReport):
        for result in report.results:
            yield {
                "model": result.case.model,
                "target": "served, traced",
                "batch": result.case.batch,
                "loop": "closed",
                "load": result.case.concurrency,
                "requests": result.reconciliation.requests,
                "protocol_sha256": result.protocol_sha256,
                **_numbers(result.statistics),
            }


def _numbers(statistics: Statistics | None) -> dict[str, object]:
    if statistics is None:
        return {}
    return {name: f"{getattr(statistics, name):.6g}" for name in NUMBERS}
