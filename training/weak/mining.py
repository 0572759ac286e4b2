"""Object region mining by adversarial erasing.

Wei et al. 2017, arXiv:1703.08448: a classifier looks at the most telling part of an object and no further. So the part
is erased, a classifier is taught on what is left, and its part is added, for a few rounds. Image labels alone say three
things more: a slice without infection shows what its vessels score; a slice that the classifier no
longer calls infected has nothing left to mine; and slices without infection get the holes of infected ones, or the next
classifier would learn to find holes.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from .lungs import Mask, disc
from .maps import Reading
from .slices import Slice

# These shares were set on the held-back volumes, never on a test split.
#: A region reaches down to this share of the way from what vessels score to the slice's peak.
SHARE = 0.2
#: What vessels score: this quantile over the dense tissue of the slices without infection.
QUANTILE = 0.25
#: From this probability on, a slice that was mined before has something left.
INFECTED = 0.5
#: Pixels of each healthy slice that the quantile is taken over.
DRAWN = 2000
#: The gaps in a mask that are closed, as a share of the slice's side.
GAP = 0.008

#: Reads slices with a region of each erased.
Read = Callable[[Sequence[Slice], Sequence[Mask]], list[Reading]]
#: Teaches a classifier on slices with a region of each erased; the number of the round, from 0, comes first.
Teach = Callable[[int, Sequence[Slice], Sequence[Mask]], Read]


class Mined(NamedTuple):
    """The regions after each round, one a slice; a round's hold those of the round before."""

    train: list[list[Mask]]
    held_back: list[list[Mask]]


def mine(train: Sequence[Slice], held_back: Sequence[Slice], teach: Teach, rounds: int, seed: int) -> Mined:
    """Mine the regions of infected slices; slices without infection have empty ones.

    The slices held back are mined by the same classifiers and teach none of them.
    """
    rng = np.random.default_rng((seed, 2017))
    regions, held_regions = _nothing(train), _nothing(held_back)
    mined = Mined([], [])
    for number in range(rounds):
        holes = with_holes(train, regions, rng)
        read = teach(number, train, holes)
        floor = healthy_score(train, holes, read, rng)
        # At first the image label says that there is something to find, later the classifier must.
        sure = INFECTED if number else 0.0
        regions = _grow(train, regions, read, floor, sure)
        held_regions = _grow(held_back, held_regions, read, floor, sure)
        mined.train.append(regions)
        mined.held_back.append(held_regions)
    return mined


def _nothing(pieces: Sequence[Slice]) -> list[Mask]:
    return [np.zeros(piece.image.shape, bool) for piece in pieces]


def _grow(pieces: Sequence[Slice], regions: Sequence[Mask], read: Read, floor: float, sure: float) -> list[Mask]:
    """The regions with what one classifier finds in infected slices when they are erased."""
    infected = [index for index, piece in enumerate(pieces) if piece.infected]
    readings = read([pieces[index] for index in infected], [regions[index] for index in infected])
    grown = list(regions)
    for index, reading in zip(infected, readings, strict=True):
        if reading.probability >= sure:
            left = pieces[index].lungs.dense & ~regions[index]
            grown[index] = regions[index] | highest_region(reading.scores, left, floor)
    return grown


def highest_region(scores: NDArray[np.float32], tissue: Mask, floor: float) -> Mask:
    """Where the scores in the tissue come near their peak; nowhere where even the peak is what healthy lungs score."""
    peak = float(scores[tissue].max()) if tissue.any() else -np.inf
    if peak <= floor:
        return np.zeros(tissue.shape, bool)
    return tissue & (scores >= floor + SHARE * (peak - floor))


def healthy_score(pieces: Sequence[Slice], holes: Sequence[Mask], read: Read, rng: np.random.Generator) -> float:
    """What the dense tissue of slices without infection, their vessels, scores, but for the lowest."""
    healthy = [
        (piece, hole)
        for piece, hole in zip(pieces, holes, strict=True)
        if not piece.infected and piece.lungs.dense.any()
    ]
    readings = read([piece for piece, _ in healthy], [hole for _, hole in healthy])
    drawn = [
        rng.choice(reading.scores[piece.lungs.dense], DRAWN)
        for (piece, _), reading in zip(healthy, readings, strict=True)
    ]
    # With nothing healthy to compare with, a place counts where it speaks for infection at all.
    return float(np.quantile(np.concatenate(drawn), QUANTILE)) if drawn else 0.0


def with_holes(pieces: Sequence[Slice], regions: Sequence[Mask], rng: np.random.Generator) -> list[Mask]:
    """What to erase: an infected slice's own region, in a slice without infection that of a random infected one."""
    donors = [(piece, region) for piece, region in zip(pieces, regions, strict=True) if piece.infected]
    if not donors:
        return list(regions)
    return [
        region if piece.infected else _moved(*donors[int(rng.integers(len(donors)))], piece)
        for piece, region in zip(pieces, regions, strict=True)
    ]


def _moved(donor: Slice, region: Mask, piece: Slice) -> Mask:
    """A region of one slice's lungs, at the same place of another's."""
    (top, left, bottom, right), (up, first, down, last) = donor.lungs.box, piece.lungs.box
    hole = region[top:bottom, left:right].astype(np.uint8)
    moved = np.zeros(piece.image.shape, bool)
    moved[up:down, first:last] = cv2.resize(hole, (last - first, down - up), interpolation=cv2.INTER_NEAREST) > 0
    return moved & piece.lungs.field


def pseudo_mask(piece: Slice, region: Mask) -> Mask:
    """The mask that a region stands for: the dense tissue in it, its gaps closed."""
    radius = GAP * max(region.shape)
    room = round(radius) + 2
    dense = np.pad(region & piece.lungs.dense, room).astype(np.uint8)
    closed = cv2.morphologyEx(dense, cv2.MORPH_CLOSE, disc(radius))[room:-room, room:-room]
    return (closed > 0) & piece.lungs.field
