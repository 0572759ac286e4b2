"""How much of the lungs is ill, of which kind and where: volumes, percentages and a surrogate of the CT score.

Pure functions of a study and of the tally of its pixels; what they say is exactly what the masks hold.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .findings import TYPE_NAMES
from .regions import LEFT, RIGHT, share_within, slice_edges_mm
from .study import Study
from .tally import Tally

Side = Literal["right", "left"]
Zone = Literal["upper", "middle", "lower"]
#: Of the lungs' height from 0 at the bottom to 1 at the top.
Heights = tuple[float, float]
#: float64 ``[..., kind, lesion, well aerated, lung]``: what lies somewhere, in ml, or in pixels without spacing.
Amounts = NDArray[np.float64]

#: Highest whole percent of 0, 1, 2, 3 and 4 points: Francone et al., European Radiology 30(12):6808, 2020 (PMC7334627).
GRADES_PERCENT = (0, 4, 25, 50, 75)
#: Two slices with lung for each third of the height; with fewer, no zones.
LEAST_SLICES = 6
#: Less lung than this is a child's, or no chest.
LEAST_LUNG_ML = 500.0
#: Lungs are cut off where the first or the last slice shows this share of the lung that the fullest slice shows.
CUT_OFF_SHARE = 0.3

#: The kinds that lie in lung tissue.
LUNG_KINDS = tuple(name for name in TYPE_NAMES if name != "pleural_effusion")
SIDES: dict[Side, int] = {"right": RIGHT, "left": LEFT}
#: Fluid below the lungs belongs to the lower zone.
ZONES: dict[Zone, Heights] = {"upper": (2 / 3, math.inf), "middle": (1 / 3, 2 / 3), "lower": (-math.inf, 1 / 3)}
#: What stands in for the five lobes: the right lung in thirds of its height, the left one in halves.
SURROGATE_LOBES: dict[str, tuple[Side, Heights]] = {
    "right upper third": ("right", (2 / 3, 1)),
    "right middle third": ("right", (1 / 3, 2 / 3)),
    "right lower third": ("right", (0, 1 / 3)),
    "left upper half": ("left", (1 / 2, 1)),
    "left lower half": ("left", (0, 1 / 2)),
}
SURROGATE_NOTE = (
    "Surrogate of the 25-point CT severity score: no lobes are segmented, so thirds of the right lung's height and "
    "halves of the left one's stand in for the five lobes"
)


@dataclass(frozen=True)
class Region:
    """What lies in a part of the chest.

    Volumes are None where the study has no spacing, percentages where there is no lung.

    Attributes:
        lung_ml: the lung mask.
        lesion_ml: the binary network's mask.
        by_kind_ml: the 3-class network's mask, by kind.
        percent_involved: the share of the lung that the binary network calls lesion.
        percent_by_kind: the share of the lung by kind; a pleural effusion lies beside the lung and has none.
        percent_well_aerated: the share of the lung between -950 and -700 HU.
    """

    lung_ml: float | None
    lesion_ml: float | None
    by_kind_ml: dict[str, float] | None
    percent_involved: float | None
    percent_by_kind: dict[str, float] | None
    percent_well_aerated: float | None


@dataclass(frozen=True)
class SurrogateLobe:
    """A part of a lung that stands in for a lobe, and its 0 to 5 points."""

    part: str
    percent_involved: float
    points: int


@dataclass(frozen=True)
class SurrogateScore:
    """0 to 25 points over the parts that stand in for the lobes; ``note`` goes wherever the score goes."""

    total: int
    parts: tuple[SurrogateLobe, ...]
    note: str


@dataclass(frozen=True)
class Severity:
    """The extent of disease in a study.

    Attributes:
        whole: both lungs and what lies beside them.
        sides: the patient's right and left, None where they cannot be said.
        zones: thirds of the lungs' height, None where they cannot be said.
        surrogate_score: None where it cannot be said.
        incomplete: why the study does not show two whole lungs; empty where it does.
        cannot_be_said: why sides, zones or score are None, one clause each, that of the sides first.
    """

    whole: Region
    sides: dict[Side, Region] | None
    zones: dict[Zone, Region] | None
    surrogate_score: SurrogateScore | None
    incomplete: str
    cannot_be_said: tuple[str, ...]

    @property
    def effusion_ml(self) -> float | None:
        """Pleural effusion, None where the study has no spacing."""
        return None if self.whole.by_kind_ml is None else self.whole.by_kind_ml["pleural_effusion"]


def measure(study: Study, tally: Tally) -> Severity:
    """The extent of disease, from what the pixels of the study are.

    A slice stands for the space half way to its neighbours, whatever its thickness (``regions.slice_edges_mm``).
    Without spacing every pixel counts alike, and there are percentages but no volumes.
    """
    midline, counts = tally.midline_mm, tally.pixels
    edges = slice_edges_mm(study)
    in_ml = edges is not None and study.spacing_mm is not None
    if edges is None or study.spacing_mm is None:
        edges, pixel = np.arange(len(counts) + 1, dtype=np.float64), 1.0
    else:
        pixel = study.spacing_mm[1] * study.spacing_mm[2] / 1000
    amounts = counts * (np.diff(edges) * pixel).reshape(-1, 1, 1, 1, 1, 1)
    lung_pixels = tally.lung
    shown = np.flatnonzero(lung_pixels)

    def within(heights: Heights) -> Amounts:
        """By side, what lies between two heights of the lungs."""
        bottom, top = float(edges[shown[0]]), float(edges[shown[-1] + 1])
        low, high = (bottom + height * (top - bottom) for height in heights)
        return np.tensordot(share_within(edges, low, high), amounts, axes=1)

    whole = _region(amounts.sum(axis=(0, 1)), in_ml=in_ml)
    by_side: dict[Side, Region] | None = None
    by_zone: dict[Zone, Region] | None = None
    score: SurrogateScore | None = None
    if midline is not None:
        by_side = {name: _region(amounts[:, side].sum(axis=0), in_ml=in_ml) for name, side in SIDES.items()}
    if len(shown) >= LEAST_SLICES:
        by_zone = {name: _region(within(heights).sum(axis=0), in_ml=in_ml) for name, heights in ZONES.items()}
    incomplete = _why_incomplete(whole, lung_pixels)
    reasons = [] if by_side else [_why_no_sides(study)]
    reasons += [incomplete] if incomplete else []
    if not reasons:
        parts = {name: _involved(within(heights)[SIDES[side]]) for name, (side, heights) in SURROGATE_LOBES.items()}
        reasons = [f"no lung was found in the {name}" for name, percent in parts.items() if percent is None]
        known = {name: percent for name, percent in parts.items() if percent is not None}
        score = None if reasons else surrogate_score(known)
    return Severity(whole, by_side, by_zone, score, incomplete, tuple(reasons))


def surrogate_score(percent_involved: Mapping[str, float]) -> SurrogateScore:
    """Points for the parts of ``SURROGATE_LOBES``.

    0 for 0 %, 1 below 5 %, 2 to 25 %, 3 to 50 %, 4 to 75 %, 5 above (``GRADES_PERCENT``). The published grades are in
    whole percent, so percentages are rounded to whole ones first.
    """
    parts = tuple(
        SurrogateLobe(name, percent, bisect_left(GRADES_PERCENT, math.floor(percent + 0.5)))
        for name, percent in percent_involved.items()
    )
    return SurrogateScore(sum(part.points for part in parts), parts, SURROGATE_NOTE)


def cut_off(lung_pixels: NDArray[np.int64]) -> tuple[Literal["feet", "head"], ...]:
    """At which ends the stack stops in the midst of the lungs, from the pixels of lung in each slice, feet to head."""
    limit = CUT_OFF_SHARE * lung_pixels.max()
    ends: tuple[tuple[Literal["feet", "head"], int], ...] = (("feet", 0), ("head", -1))
    return tuple(name for name, index in ends if 0 < limit <= lung_pixels[index])


def _why_incomplete(whole: Region, lung_pixels: NDArray[np.int64]) -> str:
    if (shown := int(np.count_nonzero(lung_pixels))) < LEAST_SLICES:
        return f"{shown} slice{'' if shown == 1 else 's'} with lung, at least {LEAST_SLICES} are needed"
    if whole.lung_ml is None:
        return "the input has no spacing, so there are no volumes"
    if whole.lung_ml < LEAST_LUNG_ML:
        return f"{whole.lung_ml:.0f} ml of lung are not two lungs of an adult"
    if ends := cut_off(lung_pixels):
        return f"the lungs are cut off towards the {' and the '.join(ends)}"
    return ""


def _why_no_sides(study: Study) -> str:
    if study.tells_sides:
        return "the image shows no body whose middle would divide left from right"
    return "the input does not record which side is right"


def _region(amounts: Amounts, *, in_ml: bool) -> Region:
    """From amounts ``[kind, lesion, well aerated, lung]``."""
    lung = float(amounts[..., 1].sum())
    kinds = {name: float(amounts[kind].sum()) for kind, name in enumerate(TYPE_NAMES, start=1)}
    in_lung = {name: float(amounts[kind, ..., 1].sum()) for kind, name in enumerate(TYPE_NAMES, start=1)}
    return Region(
        lung_ml=lung if in_ml else None,
        lesion_ml=float(amounts[:, 1].sum()) if in_ml else None,
        by_kind_ml=kinds if in_ml else None,
        percent_involved=_involved(amounts),
        percent_by_kind={name: 100 * in_lung[name] / lung for name in LUNG_KINDS} if lung else None,
        percent_well_aerated=100 * float(amounts[:, :, 1, 1].sum()) / lung if lung else None,
    )


def _involved(amounts: Amounts) -> float | None:
    lung = float(amounts[..., 1].sum())
    return 100 * float(amounts[:, 1, :, 1].sum()) / lung if lung else None
