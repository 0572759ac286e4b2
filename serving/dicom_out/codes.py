"""What the DICOM objects say in codes: the four segments, and what is measured of them.

Codes are those of DICOM PS3.16 where it has one (as ``pydicom.sr.codedict`` lists them), else SNOMED CT. SNOMED CT has
none for ground glass as a finding on images; DICOM's own of CID 6104 is taken. What neither has a code for carries one
of this project's, under the private scheme ``99CORONANET``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from ...model.findings import Decisions
from ...model.severity import Side
from ...model.tasks import LESION_TYPES, TaskName

PRIVATE_SCHEME = "99CORONANET"

LUNG = codes.SCT.Lung
PERCENT = codes.UCUM.Percent
MILLILITRE = Code("mL", "UCUM", "milliliter")
POINTS = Code("{score}", "UCUM", "score")
UNITLESS = codes.UCUM.NoUnits
SIDES: dict[Side, Code] = {"right": codes.SCT.Right, "left": codes.SCT.Left}
CT_CHEST = Code("24627-2", "LN", "CT Chest")


@dataclass(frozen=True)
class Segment:
    """One segment, which is also one group of measurements.

    Attributes:
        label: what a viewer shows.
        category, kind, site: CID 7150, what it is, and where in the body.
        task: the network that found it.
        colour: sRGB, the overlay's.
        mask: the segment's bool ``[Z, H, W]`` of the decisions.
    """

    label: str
    category: Code
    kind: Code
    site: Code
    task: TaskName
    colour: tuple[int, int, int]
    mask: Callable[[Decisions], NDArray[np.bool_]]


def _of_type(name: str) -> Callable[[Decisions], NDArray[np.bool_]]:
    label = LESION_TYPES.index(name)
    return lambda decisions: decisions.lesion_types == label


#: In the order of their segment numbers, which count from 1.
SEGMENTS = (
    Segment(
        label="Lung",
        category=codes.SCT.AnatomicalStructure,
        kind=LUNG,
        site=LUNG,
        task="lung_segmentation",
        colour=(240, 228, 66),
        mask=lambda found: found.lung_mask > 0,
    ),
    Segment(
        label="Ground glass opacity",
        category=codes.SCT.MorphologicallyAbnormalStructure,
        kind=codes.DCM.GroundGlassOpacity,
        site=LUNG,
        task="multiclass_segmentation",
        colour=(86, 180, 233),
        mask=_of_type("ground glass"),
    ),
    Segment(
        label="Consolidation",
        category=codes.SCT.MorphologicallyAbnormalStructure,
        kind=Code("95436008", "SCT", "Lung consolidation"),
        site=LUNG,
        task="multiclass_segmentation",
        colour=(213, 94, 0),
        mask=_of_type("consolidation"),
    ),
    Segment(
        label="Pleural effusion",
        category=codes.SCT.MorphologicallyAbnormalStructure,
        kind=codes.SCT.PleuralEffusion,
        site=codes.SCT.Pleura,
        task="multiclass_segmentation",
        colour=(0, 158, 115),
        mask=_of_type("pleural effusion"),
    ),
)
