"""In which order a person should look at many studies, and why; ``triage.csv``."""

import csv
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from ..model.errors import UsageError
from ..model.readers import Unreadable
from ..model.risk import BandName, risk_table, shows_effusion
from .predict import Outcome
from .report import TRIAGE, Report

RULE = (
    "By severity band of the surrogate CT score (high, cannot be said, middle, low, none), then pleural effusion, then "
    "percent of the lung involved, then the classifier's highest probability, then name"
)
#: A study of which no score can be said may be a bad one, so it comes before the middle band.
ORDER: tuple[BandName | None, ...] = ("high", None, "middle", "low", "none")
CANNOT_BE_SAID, NOT_FINISHED = "cannot be said", "not finished"
#: What a spreadsheet takes for the beginning of a formula (OWASP, CSV injection).
_FORMULA = ("=", "+", "-", "@")

Cell = str | int | float | None


@dataclass(frozen=True)
class TriageRow:
    """A line of ``triage.csv``; ``rank`` is None for an input that was not finished.

    ``study`` is the name of the study's folder, which is the name of what was given, never one out of its header.
    """

    rank: int | None
    study: str
    severity_band: BandName | Literal["cannot be said", "not finished"]
    surrogate_ct_severity_score: int | None
    pleural_effusion_ml: float | None
    percent_of_lung_involved: float | None
    percent_well_aerated: float | None
    highest_infected_probability: float | None
    reasons: str
    read_with_care: str


@dataclass(frozen=True)
class BandCount:
    """How many studies are in a severity band, beside what is published on it."""

    band: BandName | Literal["cannot be said"]
    surrogate_scores: str
    studies: int
    published: str


def triage(outcome: Outcome) -> tuple[TriageRow, ...]:
    """The studies of a run by ``RULE``, the inputs that were not finished behind them; equal for equal reports."""
    ordered = sorted(outcome.results, key=lambda result: (_place(result.report), result.folder.name))
    rows = [_row(rank, result.folder.name, result.report) for rank, result in enumerate(ordered, start=1)]
    return (*rows, *(_unfinished(failure) for failure in outcome.failures))


def count_bands(rows: Sequence[TriageRow]) -> tuple[BandCount, ...]:
    """How many studies lie in each band, from the highest; what was not finished is in none."""
    counts: list[BandCount] = []
    top = 25
    for band in risk_table().bands:
        scores = f"{band.least_points}" if band.least_points == top else f"{band.least_points} to {top}"
        studies = sum(1 for row in rows if row.severity_band == band.name)
        counts.append(BandCount(band.name, scores, studies, band.published))
        top = band.least_points - 1
    studies = sum(1 for row in rows if row.severity_band == CANNOT_BE_SAID)
    return (*counts, BandCount(CANNOT_BE_SAID, "", studies, ""))


def to_csv(rows: Sequence[TriageRow]) -> str:
    """One line a study, below a line of names; no cell that a spreadsheet would run."""
    text = io.StringIO()
    writer = csv.writer(text)
    names = [field.name for field in fields(TriageRow)]
    writer.writerow(names)
    writer.writerows([_cell(getattr(row, name)) for name in names] for row in rows)
    return text.getvalue()


def write_triage(folder: Path, rows: Sequence[TriageRow]) -> None:
    """Write ``triage.csv``, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=f".{TRIAGE}-", dir=folder) as work:
            path = Path(work) / TRIAGE
            path.write_text(to_csv(rows), encoding="utf-8", newline="")
            os.replace(path, folder / TRIAGE)
    except OSError as error:
        raise UsageError(f"cannot write {folder / TRIAGE}: {error.strerror}: choose another --out") from None


def check_triage_replaceable(folder: Path) -> None:
    """Refuse to write ``triage.csv`` over something else of that name.

    Raises:
        UsageError: it is there and is not the list of an earlier run.
    """
    path, first = folder / TRIAGE, to_csv(()).strip()
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8") as file:
            ours = file.read(len(first)) == first
    except (OSError, UnicodeDecodeError):
        ours = False
    if not ours:
        raise UsageError(f"{path} is not the list of an earlier run and will not be replaced: choose another --out")


def _place(report: Report) -> tuple[int, bool, float, float]:
    """Smaller comes first."""
    involved = report.severity.whole.percent_involved
    return (
        ORDER.index(report.band),
        not shows_effusion(report.risk),
        1.0 if involved is None else -involved,
        -report.findings.highest_infected_probability,
    )


def _row(rank: int, name: str, report: Report) -> TriageRow:
    severity, whole = report.severity, report.severity.whole
    return TriageRow(
        rank=rank,
        study=name,
        severity_band=report.band or CANNOT_BE_SAID,
        surrogate_ct_severity_score=severity.surrogate_score.total if severity.surrogate_score else None,
        pleural_effusion_ml=_rounded(severity.effusion_ml),
        percent_of_lung_involved=_rounded(whole.percent_involved),
        percent_well_aerated=_rounded(whole.percent_well_aerated),
        highest_infected_probability=round(report.findings.highest_infected_probability, 3),
        reasons="; ".join(reasons(report)),
        read_with_care="; ".join(flag.text for flag in report.quality),
    )


def reasons(report: Report) -> tuple[str, ...]:
    """Why a study stands where it does, in the order of ``RULE``."""
    severity, score = report.severity, report.severity.surrogate_score
    involved, effusion_ml = severity.whole.percent_involved, severity.effusion_ml
    if score is not None:
        first = f"surrogate CT severity score {score.total} of 25, band {report.band}"
    else:
        first = f"surrogate CT severity score cannot be said ({'; '.join(severity.cannot_be_said)})"
    if effusion_ml is None:
        second = "pleural effusion cannot be said"
    else:
        second = f"pleural effusion {effusion_ml:.0f} ml{'' if shows_effusion(report.risk) else ', none to speak of'}"
    return (
        first,
        second,
        "no lung found" if involved is None else f"{involved:.1f} % of the lung involved",
        f"classifier {report.findings.highest_infected_probability:.2f}",
    )


def _unfinished(failure: Unreadable) -> TriageRow:
    name = Path(failure.origin).name
    reason = failure.reason.replace(failure.origin, name)
    return TriageRow(None, name, NOT_FINISHED, None, None, None, None, None, reason, "")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def _cell(value: Cell) -> Cell:
    if not isinstance(value, str):
        return value
    text = "".join(letter if letter.isprintable() else " " for letter in value).strip()
    return f"'{text}" if text.startswith(_FORMULA) else text
