"""What of the marked pixels belongs to lungs: bundled cloth and gas in the bowel look like lung to a network, too."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from .findings import Decisions
from .scratch import planes, release

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
    components = Components()
    for index, marked in enumerate(planes(decisions.lung_mask, decisions.lesion_mask, decisions.lesion_types)):
        components.add(index, *marked)
    return components.clean(decisions)


class Components:
    """What hangs together in a study whose slices come one by one, in any order, each joined to those beside it."""

    def __init__(self) -> None:
        #: By slice, the number of its first piece and how many it has; pieces count through the study.
        self._pieces: dict[int, tuple[int, int]] = {}
        self._parent: list[int] = []
        self._lung: list[NDArray[np.int64]] = []
        #: The pieces of slices whose neighbours are still to come.
        self._open: dict[int, NDArray[np.int32]] = {}

    def add(self, index: int, lung: NDArray[np.uint8], lesion: NDArray[np.uint8], types: NDArray[np.uint8]) -> None:
        """Take the masks ``[H, W]`` of a slice."""
        labels, count = _label(lung, lesion, types)
        self._pieces[index] = (len(self._parent), count)
        self._parent.extend(range(len(self._parent), len(self._parent) + count))
        self._lung.append(np.bincount(labels[lung > 0], minlength=count + 1)[1:])
        self._open[index] = labels
        for beside in (index - 1, index + 1):
            if beside in self._open:
                self._join(beside, index)
        for seen in (index - 1, index, index + 1):
            if {seen - 1, seen + 1} <= self._pieces.keys():
                self._open.pop(seen, None)

    def clean(self, decisions: Decisions) -> Cleaning:
        """Clear, in place, what ``keep_lungs`` says of the slices that were taken, which are all of ``decisions``."""
        roots, doomed = self._judge()
        lung_pixels = lesion_pixels = 0
        masks = (decisions.lung_mask, decisions.lesion_mask, decisions.lesion_types)
        for index, (start, count) in self._pieces.items():
            if not doomed[start : start + count].any():
                continue
            lung, lesion, types = (mask[index] for mask in masks)
            labels, _ = _label(lung, lesion, types)
            here = np.concatenate([[False], doomed[start : start + count]])[labels]
            lung_pixels += int(np.count_nonzero((lung > 0) & here))
            lesion_pixels += int(np.count_nonzero(((lesion > 0) | (types > 0)) & here))
            for mask in (lung, lesion, types):
                mask[here] = 0
            release(*masks)
        return Cleaning(np.unique(roots[doomed]).size, lung_pixels, lesion_pixels)

    def _join(self, one: int, other: int) -> None:
        """Make one of all pieces of two slices that lie over each other."""
        touching = np.flatnonzero((self._open[one] > 0) & (self._open[other] > 0))
        if not touching.size:
            return
        count = self._pieces[other][1] + 1
        pairs = self._open[one].ravel()[touching].astype(np.int64) * count + self._open[other].ravel()[touching]
        # Pixels side by side are mostly of the same two pieces, and to sort them all takes long.
        runs = np.concatenate([pairs[:1], pairs[1:][np.diff(pairs) != 0]])
        for first, second in zip(*np.divmod(np.unique(runs), count), strict=True):
            root = self._root(self._pieces[one][0] + int(first) - 1)
            self._parent[self._root(self._pieces[other][0] + int(second) - 1)] = root

    def _root(self, piece: int) -> int:
        while self._parent[piece] != piece:
            self._parent[piece] = piece = self._parent[self._parent[piece]]
        return piece

    def _judge(self) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The component of every piece, and whether it goes."""
        roots = np.array([self._root(piece) for piece in range(len(self._parent))], np.int64)
        lung = np.concatenate(self._lung or [np.zeros(0, np.int64)])
        held = np.bincount(roots, weights=lung, minlength=len(roots))[roots]
        return roots, (held > 0) & (held < LEAST_SHARE * held.max(initial=0))


def _label(
    lung: NDArray[np.uint8], lesion: NDArray[np.uint8], types: NDArray[np.uint8]
) -> tuple[NDArray[np.int32], int]:
    """The components of what is marked in a slice, 1 upwards as int32 ``[H, W]``, and how many they are."""
    count, labels = cv2.connectedComponents(lung | lesion | types, connectivity=4, ltype=cv2.CV_32S)
    return np.asarray(labels, np.int32), count - 1
