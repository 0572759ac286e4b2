"""What every reader checks: a sane size before anything is allocated, and values that int16 Hounsfield units hold."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError

#: The largest matrix of a CT scanner is 2048; twice that is still no accident.
MAX_SIDE = 4096
#: 2 GiB as int16, e.g. 4096 slices of 512 x 512.
MAX_VOXELS = 2**30
INT16 = np.iinfo(np.int16)


def check_size(slices: int, rows: int, columns: int, *, origin: str) -> None:
    """Refuse what a header claims before memory is taken for it.

    Raises:
        UsageError: an axis is empty or too long, or the whole is too large.
    """
    if min(slices, rows, columns) < 1:
        raise UsageError(f"{origin} is empty: its header says {slices} slices of {rows} x {columns} pixels")
    if max(rows, columns) > MAX_SIDE or slices * rows * columns > MAX_VOXELS:
        raise UsageError(
            f"{origin} is too large: its header says {slices} slices of {rows} x {columns} pixels, at most "
            f"{MAX_SIDE} x {MAX_SIDE} pixels a slice and {MAX_VOXELS} in all are read: check the file, or crop it"
        )


def to_hounsfield(
    stored: NDArray[Any], *, slope: float = 1.0, intercept: float = 0.0, origin: str
) -> NDArray[np.int16]:
    """``stored * slope + intercept``, rounded to whole HU.

    Raises:
        UsageError: a value is not a number, or lies outside int16.
    """
    if np.issubdtype(stored.dtype, np.integer) and slope == 1.0 and intercept == 0.0:
        values: NDArray[Any] = stored
    else:
        values = np.rint(stored.astype(np.float64) * slope + intercept)
        if broken := int(np.count_nonzero(~np.isfinite(values))):
            raise UsageError(
                f"{origin} holds NaN or infinite values ({broken} in one slice): expected Hounsfield units everywhere, "
                "so fill them first, e.g. with -1024"
            )
    low, high = values.min(), values.max()
    if low < INT16.min or high > INT16.max:
        raise UsageError(
            f"{origin} holds values from {low:.0f} to {high:.0f}: expected Hounsfield units between {INT16.min} and "
            f"{INT16.max}, so check its rescale slope and intercept"
        )
    return values.astype(np.int16)
