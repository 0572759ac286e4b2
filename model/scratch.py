"""Volumes in a file that has no name, so that memory holds only the slices that are being looked at.

They are numpy arrays like any other. The file lies where temporary files go (``TMPDIR``, else ``/var/tmp``, which is
on a disk where ``/tmp`` may be memory), can be opened by nobody else, and is gone with the array, however the process
ends.
"""

import math
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

Scalar = TypeVar("Scalar", bound=np.generic)
Result = TypeVar("Result")

#: What is smaller than this stays in memory.
LEAST_BYTES = 8 * 2**20
#: So many slices are looked at before their memory is given back.
AT_ONCE = 16
LARGE_FILES = Path("/var/tmp")  # noqa: S108 - the files there have no name


def empty(shape: tuple[int, ...], dtype: type[Scalar]) -> NDArray[Scalar]:
    """An array of any content, on disk where it is large.

    Raises:
        UsageError: there is no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size < LEAST_BYTES:
        return np.empty(shape, dtype)
    folder = _folder()
    try:
        with TemporaryFile(dir=folder) as file:
            # Now, and not when a page is written: then a full disk would be the end of the process.
            os.posix_fallocate(file.fileno(), 0, size)
            mapped = mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise UsageError(
            f"{folder} has no room for {size / 2**20:.0f} MiB of slices ({error.strerror}): set TMPDIR to a folder "
            "that has"
        ) from None
    return np.ndarray(shape, dtype, buffer=mapped)


def release(*volumes: NDArray[Any]) -> None:
    """Give back the memory of what was looked at; the content stays, and comes back when it is looked at again."""
    for volume in volumes:
        if (mapped := _mapped(volume)) is not None:
            mapped.madvise(mmap.MADV_DONTNEED)


def planes(*volumes: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """The slices of volumes of one length, one after the other, in the memory of a few."""
    for indices in _in_parts(len(volumes[0])):
        for index in indices:
            yield tuple(volume[index] for volume in volumes)
        release(*volumes)


def map_planes(function: Callable[..., Result], *volumes: NDArray[Any]) -> list[Result]:
    """``function(index, slice, …)`` for each slice of volumes of one length, on all cores; the answers in order."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        answers: list[Result] = []
        for indices in _in_parts(len(volumes[0])):
            answers += pool.map(lambda index: function(index, *(volume[index] for volume in volumes)), indices)
            release(*volumes)
    return answers


def _in_parts(count: int) -> Iterator[range]:
    return (range(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE))


def _folder() -> Path:
    told = Path(gettempdir())
    return LARGE_FILES if "TMPDIR" not in os.environ and os.access(LARGE_FILES, os.W_OK) else told


def _mapped(array: NDArray[Any]) -> mmap.mmap | None:
    """The file below an array or a view of one."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None
