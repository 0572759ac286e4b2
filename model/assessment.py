"""Everything that is said about a study, from one pass over its decisions."""

from dataclasses import dataclass

from .findings import Decisions, SliceFindings, StudyFindings, slice_findings, study_findings
from .quality import Flag, quality_flags
from .regions import heights_mm
from .risk import RiskStatement, risk_statements
from .severity import Severity, measure
from .study import Study


@dataclass(frozen=True)
class Assessment:
    """What the networks said slice by slice and in all, what it amounts to, and how far to trust it."""

    slices: tuple[SliceFindings, ...]
    findings: StudyFindings
    severity: Severity
    risk: tuple[RiskStatement, ...]
    quality: tuple[Flag, ...]


def assess(study: Study, decisions: Decisions) -> Assessment:
    """Measure the masks as they are; ``lungs.keep_lungs`` comes before."""
    severity = measure(study, decisions)
    findings = study_findings(decisions)
    return Assessment(
        slices=slice_findings(decisions, heights_mm(study)),
        findings=findings,
        severity=severity,
        risk=risk_statements(severity),
        quality=quality_flags(study, findings, severity),
    )
