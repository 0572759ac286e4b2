"""What of the marked pixels belongs to lungs: bundled cloth and gas in the bowel look like lung to a network, too."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .findings import Decisions

#: The least lung that a component holds, as a share of what the richest one holds, to be taken for lungs.
LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Cleaning:
    """What ``keep_lungs`` cleared: components in space, and pixels of the lung mask and of either lesion mask."""

    components: int
    lung_pixels: int
    lesion_pixels: int


def keep_lungs(decisions: Decisions) -> Cleaning:
    """Clear, in all three masks, what looks like a little lung and hangs together with neither of the lungs.

    Everything that is marked, as lung or as lesion, falls into connected components: pixels that touch along an edge,
    in slices that lie over each other. A component stays where it holds at least ``LEAST_SHARE`` of the lung that the
    richest one holds: both lungs, or one component where they touch, and a lung that an effusion has all but emptied.
    One without any lung stays as well, since an effusion can fill a side. A study of one slice is cleaned in its plane
    by the same rule.

    To keep the largest components of a lung mask is common since Hu, Hoffman and Reinhardt, IEEE TMI 20(6):490, 2001
    (10.1109/42.929615), who keep two. A share, this project's own choice, serves lungs that touch or are in pieces.

    In place and slice by slice: a study of 1,200 slices is not copied.
    """
    pieces, doomed = _judge(decisions)
    lung_pixels = lesion_pixels = 0
    if doomed.any():
        for index, start in enumerate(pieces.starts):
            labels, count = _label(decisions, index)
            here = np.concatenate([[False], doomed[start : start + count]])[labels]
            lesion = (decisions.lesion_mask[index] > 0) | (decisions.lesion_types[index] > 0)
            lung_pixels += int(np.count_nonzero((decisions.lung_mask[index] > 0) & here))
            lesion_pixels += int(np.count_nonzero(lesion & here))
            for mask in (decisions.lung_mask, decisions.lesion_mask, decisions.lesion_types):
                mask[index][here] = 0
    return Cleaning(np.unique(pieces.roots()[doomed]).size, lung_pixels, lesion_pixels)


class _Pieces:
    """The components of single slices, numbered through the study, and which of them are one in space."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self._parent: list[int] = []

    def add(self, count: int) -> int:
        """The number of the first of ``count`` pieces of the next slice."""
        start = len(self._parent)
        self.starts.append(start)
        self._parent.extend(range(start, start + count))
        return start

    def root(self, piece: int) -> int:
        while self._parent[piece] != piece:
            self._parent[piece] = piece = self._parent[self._parent[piece]]
        return piece

    def join(self, one: int, other: int) -> None:
        self._parent[self.root(other)] = self.root(one)

    def roots(self) -> NDArray[np.int64]:
        return np.array([self.root(piece) for piece in range(len(self._parent))], np.int64)


def _judge(decisions: Decisions) -> tuple[_Pieces, NDArray[np.bool_]]:
    """All pieces of the study, and for each whether it goes."""
    pieces, lung = _Pieces(), list[NDArray[np.int64]]()
    below, start_below = np.zeros(decisions.lung_mask.shape[1:], np.int32), 0
    for index in range(len(decisions.lung_mask)):
        labels, count = _label(decisions, index)
        start = pieces.add(count)
        lung.append(np.bincount(labels[decisions.lung_mask[index] > 0], minlength=count + 1)[1:])
        touching = (labels > 0) & (below > 0)
        pairs = np.unique(below[touching].astype(np.int64) * (count + 1) + labels[touching])
        for lower, upper in zip(*np.divmod(pairs, count + 1), strict=True):
            pieces.join(start_below + int(lower) - 1, start + int(upper) - 1)
        below, start_below = labels, start
    roots = pieces.roots()
    held = np.bincount(roots, weights=np.concatenate(lung), minlength=len(roots))[roots]
    return pieces, (held > 0) & (held < LEAST_SHARE * held.max(initial=0))


def _label(decisions: Decisions, index: int) -> tuple[NDArray[np.int32], int]:
    """The components of what is marked in a slice, 1 upwards as int32 ``[H, W]``, and how many they are."""
    marked = decisions.lung_mask[index] | decisions.lesion_mask[index] | decisions.lesion_types[index]
    count, labels = cv2.connectedComponents((marked > 0).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    return np.asarray(labels, np.int32), count - 1
