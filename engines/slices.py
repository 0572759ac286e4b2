"""The slices that the gates look at: real ones where there are any, else the synthetic phantom.

Training and validation slices only; no ``test/`` split is ever opened here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..model.errors import UsageError
from ..model.phantom import make_phantom
from ..model.readers.images import read_image
from ..model.readers.windows import NAMED_WINDOWS
from .places import data_home

Item = TypeVar("Item")
#: Where slices lie below the data folder, and how many of each are taken, evenly.
SOURCES = (("medseg98_covid_semiseg/train/images", 8), ("radiopaedia9_medseg2/images", 16))


@dataclass(frozen=True)
class GateSlices:
    """Slices of any size, each int16 HU ``[H, W]``, with the name and the hash of the set."""

    name: str
    images: tuple[NDArray[np.int16], ...]
    real: bool

    @property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for image in self.images:
            digest.update(repr(image.shape).encode())
            digest.update(np.ascontiguousarray(image).tobytes())
        return digest.hexdigest()


def gate_slices(option: Path | None) -> GateSlices:
    """The slices for the gates: of the data folder (``places.data_home``), or of the phantom where it has none.

    Args:
        option: the folder that the user names for this run; None takes the usual one, if any.

    Raises:
        UsageError: ``option`` is not a folder or holds none of the known data sets.
    """
    home = data_home(option)
    images: list[NDArray[np.int16]] = []
    names: list[str] = []
    for folder, count in SOURCES:
        paths = evenly(sorted((home / folder).glob("*.jpg")) if home is not None else [], count)
        images += [read_image(path, NAMED_WINDOWS["lung"]).image[0] for path in paths]
        names += [f"{len(paths)} of {folder}"] if paths else []
    if images:
        return GateSlices(", ".join(names), tuple(images), real=True)
    if option is not None:
        raise UsageError(f"none of {[folder for folder, _ in SOURCES]} in {option}: pass the folder of the data sets")
    return phantom_slices()


def phantom_slices() -> GateSlices:
    """Eight slices of the synthetic phantom."""
    image = make_phantom().image
    return GateSlices("synthetic phantom", tuple(image[:: max(1, len(image) // 8)]), real=False)


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count`` of the items, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]
