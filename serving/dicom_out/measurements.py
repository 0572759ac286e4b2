"""What is measured of each segment and of the whole study, in codes and units."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from ...model.findings import TYPE_NAMES, StudyFindings
from .codes import MILLILITRE, PERCENT, PRIVATE_SCHEME, SEGMENTS, UNITLESS


@dataclass(frozen=True)
class Measured:
    """A number with what it is of, its unit (UCUM) and, for a volume, how it was taken."""

    name: Code
    value: float
    unit: Code
    method: Code | None = None


def _own(value: str, meaning: str) -> Code:
    return Code(value, PRIVATE_SCHEME, meaning)


PERCENT_OF_LUNG = _own("percent-of-lung", "Share of the lung's volume")
PERCENT_INVOLVED = _own("percent-involved", "Share of the lung that is lesion by the binary network")
INFECTED_PROBABILITY = _own("infected-probability", "Highest probability of infection of a slice")


def of_segments(findings: StudyFindings) -> tuple[Sequence[Measured], ...]:
    """For each of ``SEGMENTS`` its volume, where the spacing is known, and for lesions in lung the share of it."""
    volumes = findings.volumes_ml
    shares = findings.percent_of_lung_by_type or {}
    measured: list[list[Measured]] = []
    for name in ("lung", *TYPE_NAMES):
        volume = None if volumes is None else volumes.lung if name == "lung" else volumes.by_type[name]
        here = [] if volume is None else [_volume(volume)]
        if name in shares:
            here.append(Measured(PERCENT_OF_LUNG, shares[name], PERCENT))
        measured.append(here)
    assert len(measured) == len(SEGMENTS)
    return tuple(measured)


def of_study(findings: StudyFindings) -> tuple[Measured, ...]:
    measured = [Measured(INFECTED_PROBABILITY, findings.highest_infected_probability, UNITLESS)]
    if findings.percent_of_lung_involved is not None:
        measured.append(Measured(PERCENT_INVOLVED, findings.percent_of_lung_involved, PERCENT))
    return tuple(measured)


def _volume(millilitres: float) -> Measured:
    return Measured(codes.SCT.Volume, millilitres, MILLILITRE, codes.DCM.SumOfSegmentedVoxelMethodForVolume)
