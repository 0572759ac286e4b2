"""Where in the chest a pixel lies: right or left, and how far up the lungs, from the volume's own orientation."""

import cv2
import numpy as np
from numpy.typing import NDArray

from .scratch import map_planes
from .study import Study

#: HU above which a voxel is body, not air or lung.
BODY_HU = -300
#: A lung in a slice that has less than this share of itself across the midline is one lung, and reaches over.
REACHES_OVER = 0.1

RIGHT, LEFT = 0, 1


def heights_mm(study: Study) -> list[float] | None:
    """How far above the first slice each one lies, along the stack's normal; None where the study has no spacing."""
    if study.spacing_mm is None:
        return None
    if study.positions_mm is None:
        return [study.spacing_mm[0] * index for index in range(len(study.image))]
    return [float(place - study.positions_mm[0]) for place in study.positions_mm]


def slice_edges_mm(study: Study) -> NDArray[np.float64] | None:
    """Where, along the stack's normal, what each slice stands for begins and ends: float64 ``[Z + 1]``, ascending.

    Half way to either neighbour, whatever the nominal thickness: so overlapping slices are not counted twice and gaps
    are bridged (Cavalieri's estimator). The first and the last slice reach out by half the usual spacing. None where
    the study has no spacing.
    """
    heights = heights_mm(study)
    if heights is None or study.spacing_mm is None:
        return None
    places, half = np.array(heights), study.spacing_mm[0] / 2
    return np.concatenate([[-half], (places[1:] + places[:-1]) / 2, [places[-1] + half]])


def share_within(edges: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """How much of each slice lies between two heights: float64 ``[Z]`` in 0..1."""
    inside = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    return np.clip(inside, 0, None) / np.diff(edges)


def midline_mm(study: Study) -> float | None:
    """The patient's midline along the right-left axis, in RAS millimetres: the mean of all voxels of the body.

    None where the study does not tell sides, or shows no body.
    """
    if study.affine is None or not study.tells_sides:
        return None
    _, height, width = study.image.shape

    def body(_: int, image: NDArray[np.int16]) -> tuple[int, int, int]:
        """Pixels, and the sums of their columns and of their rows."""
        inside = (image > BODY_HU).view(np.uint8)
        by_row = cv2.reduce(inside, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
        by_column = cv2.reduce(inside, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().astype(np.int64)
        return int(by_row.sum()), int(by_column @ np.arange(width)), int(by_row @ np.arange(height))

    sums = np.array(map_planes(body, study.image))
    pixels, columns, rows = sums.sum(axis=0)
    if not pixels:
        return None
    slices = sums[:, 0] @ np.arange(len(sums))
    along_column, along_row, along_slice, origin = study.affine[0]
    return float((along_column * columns + along_row * rows + along_slice * slices) / pixels + origin)


def sides(study: Study, index: int, lung: NDArray[np.bool_], midline: float) -> NDArray[np.uint8]:
    """``RIGHT`` or ``LEFT`` for every pixel of a slice, uint8 ``[H, W]``.

    The midline divides the slice. A connected piece of ``lung`` (bool ``[H, W]``) that reaches a little over it stays
    whole; one that lies on both sides, as lungs that touch, is divided.
    """
    side = _beside(study, index, midline)
    if not _reaches_over(lung, side):
        return side
    count, labels = cv2.connectedComponents(lung.view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    inside = np.flatnonzero(lung)
    pieces, beside = np.asarray(labels, np.int32).ravel()[inside], side.ravel()[inside]
    on_left = np.bincount(pieces, weights=beside == LEFT, minlength=count)
    share = on_left / np.maximum(np.bincount(pieces, minlength=count), 1)
    for value, whole in ((RIGHT, share < REACHES_OVER), (LEFT, share > 1 - REACHES_OVER)):
        side.ravel()[inside[whole[pieces]]] = value
    return side


def _reaches_over(lung: NDArray[np.bool_], side: NDArray[np.uint8]) -> bool:
    """Whether two pixels of lung touch that lie on different sides; the pieces need not be told apart to see that."""
    across = lung[:, 1:] & lung[:, :-1] & (side[:, 1:] != side[:, :-1])
    return bool(across.any() or (lung[1:] & lung[:-1] & (side[1:] != side[:-1])).any())


def _beside(study: Study, index: int, midline: float) -> NDArray[np.uint8]:
    """The side of the midline; in RAS the patient's right has the larger coordinate."""
    if study.affine is None:
        raise ValueError("a study without an affine does not tell sides")
    along_column, along_row, along_slice, origin = study.affine[0]
    _, rows, columns = study.image.shape
    x = along_column * np.arange(columns)[None] + along_slice * index + origin
    # Rows matter only where the patient lies askew, and a whole grid of coordinates takes long.
    if along_row:
        x = x + along_row * np.arange(rows)[:, None]
    side = np.where(x > midline, RIGHT, LEFT).astype(np.uint8)
    return np.array(np.broadcast_to(side, (rows, columns)), order="C")
