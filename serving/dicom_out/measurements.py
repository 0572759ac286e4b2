"""What is measured of each segment and of the whole study, in codes and units."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from ...model.assessment import Assessment
from ...model.findings import TYPE_NAMES
from ...model.severity import Region, Side
from .codes import MILLILITRE, PERCENT, POINTS, PRIVATE_SCHEME, SEGMENTS, UNITLESS


@dataclass(frozen=True)
class Measured:
    """A number: what it is of, in which unit (UCUM), for a volume how it was taken, and of which lung, if of one."""

    name: Code
    value: float
    unit: Code
    method: Code | None = None
    side: Side | None = None


def _own(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE_SCHEME, meaning)


PERCENT_OF_LUNG = _own("PERCENT_OF_LUNG", "Share of the lung that is of this kind")
PERCENT_INVOLVED = _own("PERCENT_INVOLVED", "Share of the lung that is lesion by the binary network")
WELL_AERATED = _own("WELL_AERATED", "Share of the lung between -950 and -700 HU")
SURROGATE_SCORE = _own("SURROGATE_CTSS", "Surrogate of the 25-point CT severity score, without lobes")
INFECTED_PROBABILITY = _own("INFECTED_PROB", "Highest probability of infection of a slice")


def of_segments(assessment: Assessment) -> tuple[Sequence[Measured], ...]:
    """For each of ``SEGMENTS`` its volume, where the spacing is known, and for lesions in lung the share of it."""
    whole = assessment.severity.whole
    volumes = [whole.lung_ml, *((whole.by_kind_ml or {}).get(name) for name in TYPE_NAMES)]
    shares = [None, *((whole.percent_by_kind or {}).get(name) for name in TYPE_NAMES)]
    assert len(volumes) == len(SEGMENTS)
    return tuple(
        [*_volume(volume), *_percent(PERCENT_OF_LUNG, share)] for volume, share in zip(volumes, shares, strict=True)
    )


def of_study(assessment: Assessment) -> tuple[Measured, ...]:
    """What belongs to no segment: both lungs together, then each, then the score and the classifier's word."""
    severity = assessment.severity
    measured = _of_region(severity.whole)
    for side, region in (severity.sides or {}).items():
        measured += [*_volume(region.lung_ml, side), *_of_region(region, side)]
    if severity.surrogate_score is not None:
        measured.append(Measured(SURROGATE_SCORE, severity.surrogate_score.total, POINTS))
    highest = assessment.findings.highest_infected_probability
    return (*measured, Measured(INFECTED_PROBABILITY, highest, UNITLESS))


def _of_region(region: Region, side: Side | None = None) -> list[Measured]:
    return [
        *_percent(PERCENT_INVOLVED, region.percent_involved, side),
        *_percent(WELL_AERATED, region.percent_well_aerated, side),
    ]


def _percent(name: Code, value: float | None, side: Side | None = None) -> list[Measured]:
    return [] if value is None else [Measured(name, value, PERCENT, side=side)]


def _volume(millilitres: float | None, side: Side | None = None) -> list[Measured]:
    method = codes.DCM.SumOfSegmentedVoxelMethodForVolume
    return [] if millilitres is None else [Measured(codes.SCT.Volume, millilitres, MILLILITRE, method, side)]
