"""The stream of training views: which slice comes next, and how it is bent, decided by the seed and the position."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from ..engines.samples import SUPERVISIONS, Sample
from ..model.card import Geometry
from .augment import augment
from .recipes import Recipe


class Item(NamedTuple):
    """One view and what its labels may be trusted for (an index into ``SUPERVISIONS``)."""

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    lung: NDArray[np.uint8]
    supervision: int


class Views(Dataset[Item]):
    """Random views by position: the same position gives the same view in any process, before and after a stop."""

    def __init__(self, samples: tuple[Sample, ...], geometry: Geometry, recipe: Recipe) -> None:
        self._samples, self._recipe = samples, recipe
        self._size = (geometry.height, geometry.width)
        free = np.array([not sample.labels.any() for sample in samples])
        share = recipe.lesion_free_share if free.any() and not free.all() else float(free.all())
        # Every set counts alike, or 50 varied slices would drown in 500 of a few patients.
        source = np.array([sample.group.partition("-")[0] for sample in samples])
        size = {name: float(np.sum(source == name)) for name in set(source.tolist())}
        weight = np.array([1 / size[name] for name in source.tolist()])
        weight = np.where(free, weight / max(weight[free].sum(), 1e-9), weight / max(weight[~free].sum(), 1e-9))
        weight *= np.where(free, share, 1 - share)
        self._weight = weight / weight.sum()

    def __getitem__(self, index: int) -> Item:
        rng = np.random.default_rng((self._recipe.seed, index))
        sample = self._samples[int(rng.choice(len(self._samples), p=self._weight))]
        view = augment(sample, self._size, self._recipe.augmentation, rng)
        return Item(*view, SUPERVISIONS.index(sample.supervision))


class Positions(Sampler[int]):
    """The positions of a run, step after step; every process takes its share, and a stopped run goes on at ``first``.

    The length is that of the whole run: the loop counts the steps before ``first`` as done.

    Args:
        batch: positions a step, of all processes together, and a multiple of ``processes``.
    """

    def __init__(self, steps: int, batch: int, *, first: int = 0, rank: int = 0, processes: int = 1) -> None:
        self._steps, self._batch, self._first = steps, batch, first
        self._share, self._rank = batch // processes, rank

    def __len__(self) -> int:
        return self._steps * self._share

    def __iter__(self) -> Iterator[int]:
        for step in range(self._first, self._steps):
            begin = step * self._batch + self._rank * self._share
            yield from range(begin, begin + self._share)
