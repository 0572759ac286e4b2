"""Slices that know whether they are infected and nothing about where.

``read_slice`` is the only place of the weak way that touches a label map, and it asks it one question.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from ...console import err
from ...engines.samples import LESION_KNOWN, Sample
from .lungs import Lungs, Mask, disc, find_lungs

SOFT_TISSUE_HU = np.int16(40)
#: The value of dense tissue in ``tissue``.
DENSE = 2
#: What is erased around a region, as a share of the slice's side.
RIM = 0.008


@dataclass(frozen=True)
class Slice:
    """A slice with its image label: ``image`` int16 HU ``[H, W]``, and its lungs as the intensities show them."""

    image: NDArray[np.int16]
    infected: bool
    group: str
    lungs: Lungs

    @property
    def source(self) -> str:
        """The data set that the slice is from."""
        return self.group.partition("-")[0]

    def without(self, region: Mask) -> "Slice":
        """What a classifier sees: the lungs, with a region filled with healthy lung, in nothing but soft tissue.

        So neither the liver nor a table nor lettering can tell it which slice this is. The region's rim goes too.
        """
        rim = disc(RIM * max(region.shape))
        erased = cv2.dilate(region.astype(np.uint8), rim) > 0
        lungs = np.where(erased, np.int16(round(self.lungs.healthy_hu)), self.image)
        image = np.where(self.lungs.field, lungs, SOFT_TISSUE_HU)
        return replace(self, image=image, lungs=replace(self.lungs, dense=self.lungs.dense & ~erased))

    @property
    def tissue(self) -> NDArray[np.uint8]:
        """uint8 ``[H, W]``: 0 outside the lungs, 1 lung, ``DENSE`` dense tissue in it."""
        return np.where(self.lungs.dense, DENSE, self.lungs.field).astype(np.uint8)


def read_slice(sample: Sample) -> Slice:
    """Keep the image label of a sample: the slice holds a lesion somewhere, or none."""
    return Slice(sample.image, bool(sample.labels.any()), sample.group, find_lungs(sample.image))


def read_slices(samples: Iterable[Sample]) -> list[Slice]:
    """Those samples whose labels can say that a slice is infected, with their image labels."""
    told = [sample for sample in samples if sample.supervision in LESION_KNOWN]
    return [read_slice(sample) for sample in track(told, "finding the lungs", console=err)]


def to_classify(piece: Slice, erased: Mask) -> Sample:
    """What the classifier learns from: the image label stands at every pixel, so any view says what the slice says."""
    seen = piece.without(erased)
    return Sample(seen.image, np.full(erased.shape, piece.infected, np.uint8), "lesion", piece.group, seen.tissue)


def to_segment(piece: Slice, mask: Mask) -> Sample:
    """What the segmentation network learns from: a mask that was mined. The lungs are those that intensity shows."""
    return Sample(piece.image, mask.astype(np.uint8), "lesion", piece.group, piece.lungs.field.astype(np.uint8))
