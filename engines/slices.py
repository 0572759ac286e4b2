"""The slices that the gates look at: real ones where there are any, else the synthetic phantom.

Training and validation slices only; no ``test/`` split is ever opened here.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..model.errors import UsageError
from ..model.phantom import make_labelled_phantom
from ..model.tasks import TaskName
from .datasets import Reader, is_held_back, medseg, plethora, radiopaedia
from .places import data_home
from .samples import Sample

#: Where slices lie below the data folder, and who reads them.
SOURCES: tuple[tuple[str, Reader], ...] = (
    ("medseg98_covid_semiseg/train", medseg),
    ("radiopaedia9_medseg2", radiopaedia),
    ("pleural_effusion10_plethora", plethora),
)
#: How many slices of each source the gates of a task look at, spread evenly: those that tell something of its truth.
#: A slice says one thing about a classifier and thousands about a segmenter.
COUNTS: dict[TaskName, tuple[int, int, int]] = {
    "classification": (50, 120, 0),
    "binary_segmentation": (14, 18, 0),
    "multiclass_segmentation": (14, 14, 6),
    "lung_segmentation": (4, 24, 0),
}
CALIBRATION_COUNTS = (8, 16, 8)


@dataclass(frozen=True)
class GateSlices:
    """Slices with what is known of them, under the name of the set.

    ``real`` is false for the phantom; without ``has_truth`` the labels of the samples say nothing.
    """

    name: str
    samples: tuple[Sample, ...]
    real: bool
    has_truth: bool = True

    @property
    def images(self) -> tuple[NDArray[np.int16], ...]:
        """Of any size, each int16 HU ``[H, W]``."""
        return tuple(sample.image for sample in self.samples)

    @property
    def sha256(self) -> str:
        """Hash of the images alone."""
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(_content(image))
        return digest.hexdigest()

    def without(self, others: "GateSlices") -> "GateSlices":
        """Those of these slices that are none of the others, pixel for pixel.

        Raises:
            UsageError: none is left.
        """
        held = {_content(image) for image in others.images}
        left = tuple(sample for sample in self.samples if _content(sample.image) not in held)
        if not left:
            raise UsageError(
                f"each of the {self.name} is one that the gates look at, and int8 needs others for its ranges",
                page="calibration-data",
            )
        if len(left) == len(self.samples):
            return self
        return replace(self, name=f"{len(left)} of the {self.name}", samples=left)


def _content(image: NDArray[np.int16]) -> bytes:
    """What makes a slice the one that it is."""
    return repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()


def gate_slices(option: Path | None, task: TaskName) -> GateSlices:
    """The slices for a task's gates: of the data folder (``places.data_home``), or of the phantom where it has none.

    Args:
        option: the folder that the user names for this run; None takes the usual one, if any.

    Raises:
        UsageError: ``option`` is not a folder or holds none of the known data sets.
    """
    home = data_home(option)
    known = None if home is None else known_slices(home, task)
    if known is not None:
        return known
    if option is not None:
        raise UsageError(f"none of {[folder for folder, _ in SOURCES]} in {option}: pass the folder of the data sets")
    return phantom_slices()


def known_slices(home: Path, task: TaskName) -> GateSlices | None:
    """The slices for a task's gates of the known data sets in a folder, None where it has none of them."""
    taken = _take(home, COUNTS[task])
    if not taken:
        return None
    name = ", ".join(f"{len(samples)} of {folder}" for folder, samples in taken)
    return GateSlices(name, tuple(sample for _, samples in taken for sample in samples), real=True)


def calibration_slices(option: Path | None) -> GateSlices:
    """Training slices for the ranges of an int8 network; none of a group that is held back.

    Raises:
        UsageError: there are none.
    """
    home = data_home(option)
    taken = [] if home is None else _take(home, CALIBRATION_COUNTS)
    samples = tuple(sample for _, samples in taken for sample in samples if not is_held_back(sample))
    if not samples:
        raise UsageError(
            "int8 needs training slices for its ranges and there are none: pass --data DIR or set CORONANET_DATA",
            page="calibration-data",
        )
    return GateSlices(f"{len(samples)} training slices", samples, real=True)


def _take(home: Path, counts: tuple[int, ...]) -> list[tuple[str, list[Sample]]]:
    return [
        (folder, [sample for _, sample in reader(home, count=count)])
        for (folder, reader), count in zip(SOURCES, counts, strict=True)
        if count and (home / folder).is_dir()
    ]


def phantom_slices() -> GateSlices:
    """Eight slices of the synthetic phantom."""
    phantom = make_labelled_phantom()
    image, types, lung = phantom.study.image, phantom.lesion_types, phantom.lung_mask
    samples = tuple(
        Sample(image[z], types[z], "types", "phantom", lung[z]) for z in range(0, len(image), max(1, len(image) // 8))
    )
    return GateSlices("synthetic phantom", samples, real=False)
