"""A study held against published cut-offs, in the literature's words: no probability of our own and no advice."""

import json
import operator
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from .card import StrictModel
from .severity import Severity, SurrogateScore

Measure = Literal["surrogate_score", "percent_well_aerated", "pleural_effusion"]
Verdict = Literal["met", "not met", "cannot be said"]
BandName = Literal["high", "middle", "low", "none"]

TABLE = Path(__file__).with_name("risk.toml")
_COMPARE: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, ">": operator.gt, "<": operator.lt}


class CutOff(StrictModel):
    """A published cut-off: what was measured, what it went with, in whom, and where that was read."""

    id: str
    measure: Measure
    comparison: Literal[">=", ">", "<"]
    value: float
    unit: str
    statement: str
    outcome: str
    effect: str
    study: str
    size: str
    reference: str
    note: str
    checked: Literal["abstract", "second-hand"]


class Band(StrictModel):
    """A severity band: the surrogate scores from ``least_points`` up to the next band, and what is published on it."""

    name: BandName
    least_points: int
    published: str


class RiskTable(StrictModel):
    """``risk.toml``; the bands from the highest down."""

    cut_offs: tuple[CutOff, ...]
    bands: tuple[Band, ...]


@dataclass(frozen=True)
class RiskStatement:
    """What a cut-off says of a study.

    Attributes:
        verdict: whether the study meets it.
        measured: what was measured, in ``unit``; None where it cannot be said.
        why: why it cannot be said, else empty.
        The others are those of ``CutOff``.
    """

    id: str
    measure: Measure
    statement: str
    verdict: Verdict
    measured: float | None
    unit: str
    why: str
    outcome: str
    effect: str
    study: str
    size: str
    reference: str
    note: str
    checked: str


@cache
def risk_table() -> RiskTable:
    """The table that comes with the package."""
    text = TABLE.read_text(encoding="utf-8")
    # As JSON, where strict means the types that a file has.
    return RiskTable.model_validate_json(json.dumps(tomllib.loads(text)))


def risk_statements(severity: Severity) -> tuple[RiskStatement, ...]:
    """Every cut-off of the table, met, not met, or not to be said."""
    return tuple(_hold(cut_off, severity) for cut_off in risk_table().cut_offs)


def severity_band(score: SurrogateScore | None) -> BandName | None:
    """The band that a surrogate score falls into, None where there is no score."""
    if score is None:
        return None
    return next(band.name for band in risk_table().bands if score.total >= band.least_points)


def shows_effusion(statements: Sequence[RiskStatement]) -> bool:
    """Whether there is a pleural effusion to speak of."""
    return any(item.measure == "pleural_effusion" and item.verdict == "met" for item in statements)


def _hold(cut_off: CutOff, severity: Severity) -> RiskStatement:
    measured, why = _measured(cut_off.measure, severity)
    met = measured is not None and _COMPARE[cut_off.comparison](measured, cut_off.value)
    # Fluid that is seen is there; where lung is missing, fluid that is not seen may be.
    if cut_off.measure == "pleural_effusion" and not met and severity.incomplete:
        measured, why = None, severity.incomplete
    verdict: Verdict = "cannot be said" if measured is None else "met" if met else "not met"
    return RiskStatement(
        id=cut_off.id,
        measure=cut_off.measure,
        statement=cut_off.statement,
        verdict=verdict,
        measured=measured,
        unit=cut_off.unit,
        why=why if measured is None else "",
        outcome=cut_off.outcome,
        effect=cut_off.effect,
        study=cut_off.study,
        size=cut_off.size,
        reference=cut_off.reference,
        note=cut_off.note,
        checked=cut_off.checked,
    )


def _measured(measure: Measure, severity: Severity) -> tuple[float | None, str]:
    """The figure that a cut-off looks at, or why there is none."""
    match measure:
        case "surrogate_score":
            score = severity.surrogate_score
            return (None, "; ".join(severity.cannot_be_said)) if score is None else (float(score.total), "")
        case "percent_well_aerated":
            return (None, severity.incomplete) if severity.incomplete else (severity.whole.percent_well_aerated, "")
        case "pleural_effusion":
            return severity.effusion_ml, "the input has no spacing, so there are no volumes"
