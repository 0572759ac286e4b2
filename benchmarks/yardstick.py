"""A fixed piece of work that no change of ours touches: what it differs by is the machine's doing."""

import numpy as np

from .timing import Call

#: Half of it computes and half of it moves data, some milliseconds each on one core: what a network does.
SIDE = 512
COPIED_BYTES = 16 * 2**20
NAME = "yardstick"
DESCRIPTION = f"numpy: a float32 product of {SIDE} x {SIDE} and a copy of {COPIED_BYTES // 2**20} MiB"


def make_yardstick() -> Call:
    """The work, its memory touched already."""
    one = np.random.default_rng(0).standard_normal((SIDE, SIDE), np.float32)
    product = one @ one
    source = np.ones(COPIED_BYTES, np.uint8)
    copy = source.copy()

    def work() -> None:
        np.matmul(one, one, out=product)
        np.copyto(copy, source)

    return work
