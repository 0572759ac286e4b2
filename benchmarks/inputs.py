"""What the benchmarks feed: the synthetic phantom, so that nobody's CT is needed and every machine sees the same."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.base import DYNAMIC, Engine, Tensors
from .protocol import InputRecord

SIDE = 512
SLICES = 8
SEED = 0


def phantom_slices() -> NDArray[np.int16]:
    """Slices of the phantom, int16 HU ``[8, 512, 512]``, from the middle of the lungs on and round again."""
    from ..model.phantom import make_phantom

    image = make_phantom(size=SIDE, slices=SLICES).image
    return np.ascontiguousarray(np.roll(image, -(len(image) // 2), axis=0))


def describe(image: NDArray[np.int16], step: str) -> InputRecord:
    """The record of slices ``[Z, H, W]``; ``step`` as `InputRecord` has it."""
    return InputRecord(
        description="synthetic chest phantom, its slices in turn from the middle one",
        dtype=str(image.dtype),
        shape=image.shape[1:],
        slices=len(image),
        sha256=hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest(),
        step=step,
    )


def batch_of(image: NDArray[np.int16], batch: int) -> NDArray[np.int16]:
    """``batch`` slices int16 ``[batch, H, W]``, from the first on, and round again where there are fewer."""
    return np.ascontiguousarray(image[np.arange(batch) % len(image)])


def feeds_for(engine: Engine, image: NDArray[np.int16]) -> Tensors:
    """Something to feed any engine: ``image`` int16 ``[N, H, W]`` where it takes one, else seeded normal noise."""
    noise = np.random.default_rng(SEED)
    feeds: dict[str, NDArray[Any]] = {}
    for spec in engine.inputs:
        sizes = (len(image), *(SIDE if size == DYNAMIC else size for size in spec.shape[1:]))
        feeds[spec.name] = image if spec.name == "image" else noise.standard_normal(sizes).astype(spec.dtype)
    return feeds
