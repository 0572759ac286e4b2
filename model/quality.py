"""What makes an input poor: reasons to read its figures with care, in words."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from .findings import StudyFindings
from .severity import Severity
from .study import Study

FlagName = Literal[
    "few slices", "lungs incomplete", "spacing", "pixels not square", "sides unknown", "window stated",
    "networks disagree", "classifier disagrees",
]  # fmt: skip

#: Fewer slices than this are a coarse sample of lungs that are some 25 cm high.
FEW_SLICES = 20
#: Between slices, in millimetres: thicker, and small lesions can lie between them.
WIDE_MM = 10.0
#: Of a pixel's sides, in millimetres: chest CT shows 250 to 500 mm on 512 pixels.
PIXEL_MM = (0.3, 1.5)
#: A gap this many times the usual distance has slices missing.
GAP = 1.5
#: A classifier that calls the study infected, and lesions that round to nothing; or one that does not, and 5 %.
INFECTED, NOTHING_PERCENT, MUCH_PERCENT = 0.5, 0.5, 5.0


@dataclass(frozen=True)
class Flag:
    """A reason to read with care: a name for programs, a clause for people."""

    name: FlagName
    text: str


def quality_flags(study: Study, findings: StudyFindings, severity: Severity) -> tuple[Flag, ...]:
    """Everything that makes the figures of a study doubtful, nothing where nothing does."""
    flags: list[Flag] = []
    if (count := len(study.image)) < FEW_SLICES:
        flags.append(Flag("few slices", f"{count} slice{'' if count == 1 else 's'}, fewer than {FEW_SLICES}"))
    if severity.incomplete and severity.whole.percent_involved is None:
        flags.append(Flag("lungs incomplete", "no lung was found"))
    elif severity.incomplete:
        flags.append(Flag("lungs incomplete", severity.incomplete))
    flags += [Flag("spacing", text) for text in _spacing(study)]
    if study.spacing_mm and abs(study.spacing_mm[1] - study.spacing_mm[2]) > 0.01 * study.spacing_mm[1]:
        row, column = study.spacing_mm[1:]
        flags.append(Flag("pixels not square", f"pixels of {row:.3g} x {column:.3g} mm; the networks saw square ones"))
    if severity.sides is None:
        flags.append(Flag("sides unknown", severity.cannot_be_said[0]))
    if study.window_hu is not None:
        low, high = study.window_hu
        flags.append(Flag("window stated", f"grey levels read as {low:g} to {high:g} HU because the user said so"))
    if findings.agreement.flagged:
        flags.append(Flag("networks disagree", f"the two lesion networks agree at Dice {findings.agreement.dice:.2f}"))
    if text := _classifier(findings, severity.whole.percent_involved):
        flags.append(Flag("classifier disagrees", text))
    return tuple(flags)


def _spacing(study: Study) -> list[str]:
    if study.spacing_mm is None:
        return ["no spacing, so there are no volumes"]
    texts: list[str] = []
    between, *pixel = study.spacing_mm
    if between > WIDE_MM and len(study.image) > 1:
        texts.append(f"slices {between:.3g} mm apart, what lies between them is not seen")
    if min(pixel) < PIXEL_MM[0] or max(pixel) > PIXEL_MM[1]:
        texts.append(f"pixels of {pixel[0]:.3g} x {pixel[1]:.3g} mm, unusual for chest CT")
    if study.positions_mm is not None and (widest := float(np.diff(study.positions_mm).max())) > GAP * between:
        texts.append(f"a gap of {widest:.3g} mm between slices that are usually {between:.3g} mm apart")
    return texts


def _classifier(findings: StudyFindings, involved: float | None) -> str:
    """Where the classifier and the segmentation tell different stories."""
    highest = findings.highest_infected_probability
    if involved is None:
        return ""
    if highest >= INFECTED and involved < NOTHING_PERCENT:
        return f"the classifier says infected ({highest:.2f}), the segmentation {involved:.1f} % of the lung"
    if highest < INFECTED and involved >= MUCH_PERCENT:
        return f"the classifier says not infected ({highest:.2f}), the segmentation {involved:.1f} % of the lung"
    return ""
