"""Everything that is said about a study, from one pass over its decisions."""

from dataclasses import dataclass

from .findings import Decisions, SliceFindings, StudyFindings, slice_findings, study_findings
from .quality import Flag, quality_flags
from .regions import heights_mm
from .risk import RiskStatement, risk_statements
from .severity import Severity, measure
from .study import Study
from .tally import tally


@dataclass(frozen=True)
class Assessment:
    """What the networks said slice by slice and in all, what it amounts to, and how far to trust it."""

    slices: tuple[SliceFindings, ...]
    findings: StudyFindings
    severity: Severity
    risk: tuple[RiskStatement, ...]
    quality: tuple[Flag, ...]


def assess(study: Study, decisions: Decisions) -> Assessment:
    """Measure the masks as they are; ``lungs.keep_lungs`` comes before. They are looked at once."""
    counted = tally(study, decisions.lesion_mask, decisions.lesion_types, decisions.lung_mask)
    slices = slice_findings(counted, decisions.infected_probability, heights_mm(study))
    findings = study_findings(slices, counted.marked_by_both)
    severity = measure(study, counted)
    return Assessment(
        slices=slices,
        findings=findings,
        severity=severity,
        risk=risk_statements(severity),
        quality=quality_flags(study, findings, severity),
    )
