"""Where the lungs are and how dense they are, from intensity alone: no label of a pixel is read here.

A lesion fills air spaces, so inside the lungs it is denser than healthy lung (Hansell et al. 2008, Radiology 246:697).
Windows differ between the data sets, so density is relative to the slice's own healthy lung (0) and soft tissue (1).
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# The shares below were set by looking at the held-back volumes, never at a test split.
#: Relative density from which lung tissue counts as dense: between healthy lung and the thinnest ground glass.
DENSE = 0.15
#: Relative density of the densest lesions: beyond it are vessels, heart and chest wall.
SOLID = 0.9
#: Slices are read at this size (longer side), which the lengths below are shares of.
SIDE = 256
#: Radius that closes the lungs over vessels and over lesions at the pleura, and radius that removes vessels.
CLOSING, OPENING = 0.1, 0.008
#: The smallest lung, as a share of the picture.
SMALLEST = 0.004

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Lungs:
    """The lungs of a slice.

    Attributes:
        field: boolean ``[H, W]``, the lungs with the lesions in them.
        dense: boolean ``[H, W]``, tissue in the field that is denser than healthy lung and thicker than a vessel.
        healthy_hu: healthy lung of this slice.
    """

    field: Mask
    dense: Mask
    healthy_hu: float

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Top, left, bottom, right of the lungs in pixels; the whole picture where there are none."""
        rows, columns = self.field.any(axis=1).nonzero()[0], self.field.any(axis=0).nonzero()[0]
        if not rows.size:
            height, width = self.field.shape
            return 0, 0, height, width
        return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def find_lungs(image: NDArray[np.int16]) -> Lungs:
    """The lungs of an axial slice, whole field of view or cropped, in any orientation.

    Dark regions that reach a corner of the picture are the air around the patient; the others of some size inside the
    patient are lungs, closed over the vessels and lesions in them.

    Args:
        image: int16 HU ``[H, W]``.
    """
    height, width = image.shape
    scale = SIDE / max(height, width)
    small = cv2.resize(
        image.astype(np.float32),
        (max(1, round(width * scale)), max(1, round(height * scale))),
        interpolation=cv2.INTER_AREA,
    )
    smooth = cv2.GaussianBlur(small, (0, 0), 1.0)
    dark = smooth < _otsu(smooth)
    parts = _lung_air(dark)
    if not parts:
        nothing = np.zeros(image.shape, bool)
        return Lungs(nothing, nothing, float(image.min()))
    # One by one, or the heart would be closed over too.
    field = np.any([_close(part) for part in parts], axis=0).astype(np.uint8)
    air = np.any(parts, axis=0)
    healthy = float(np.percentile(small[air], 20))
    tissue = float(np.median(small[~dark]))
    density = (cv2.GaussianBlur(image.astype(np.float32), (0, 0), 0.6 / scale) - healthy) / max(tissue - healthy, 1.0)
    field = cv2.resize(field, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
    dense = (field & (density > DENSE) & (density < SOLID)).astype(np.uint8)
    opened = cv2.morphologyEx(dense, cv2.MORPH_OPEN, disc(OPENING * max(height, width)))
    return Lungs(field, opened.astype(bool), healthy)


def _otsu(image: NDArray[Any]) -> float:
    """The threshold that parts air and lung from tissue (Otsu 1979)."""
    low, high = float(image.min()), float(image.max())
    grey = ((image - low) * (255 / max(high - low, 1.0))).astype(np.uint8)
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return low + (threshold + 1) * max(high - low, 1.0) / 255


def _lung_air(dark: Mask) -> list[Mask]:
    """Dark regions of the size of a lung inside the patient, one mask each."""
    count, regions, statistics, _ = cv2.connectedComponentsWithStats(dark.astype(np.uint8), connectivity=4)
    corners = [int(regions[row, column]) for row in (0, -1) for column in (0, -1)]
    body = np.ones(dark.shape, bool)
    if sum(corner > 0 for corner in corners) > 1:
        body = _body(~dark)
    parts: list[Mask] = []
    for region in set(range(1, count)) - set(corners):
        part: Mask = regions == region
        large = statistics[region, cv2.CC_STAT_AREA] >= SMALLEST * dark.size
        if large and (part & body).sum() > part.sum() / 2:
            parts.append(part)
    return parts


def _body(bright: Mask) -> Mask:
    """The patient, lungs included: the largest bright region, filled; an opening parts it from the table."""
    opened = cv2.morphologyEx(bright.astype(np.uint8), cv2.MORPH_OPEN, disc(2))
    outlines, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    body = np.zeros(bright.shape, np.uint8)
    if outlines:
        cv2.drawContours(body, [max(outlines, key=cv2.contourArea)], -1, (1,), cv2.FILLED)
    return body.astype(bool)


def _close(mask: Mask) -> Mask:
    room = SIDE // 4
    closed = cv2.morphologyEx(np.pad(mask, room).astype(np.uint8), cv2.MORPH_CLOSE, disc(CLOSING * SIDE))
    return closed[room:-room, room:-room].astype(bool)


def disc(radius: float) -> NDArray[np.uint8]:
    side = 2 * max(1, round(radius)) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)).astype(np.uint8)
