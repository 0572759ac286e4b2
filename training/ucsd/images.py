"""UCSD COVID-CT, a classification benchmark of its own: figures from papers, COVID-19 or not, in the official split.

Its classes differ in more than the lungs (JPEG occurs in one class alone, the other has the white margins of journals),
so every image goes one way: decoded to 8-bit grey, its flat margins peeled off, brought to one size, written as JPEG
and read again. Only then do greys become Hounsfield units, by the convention of the data's README.

Zhao et al. 2020, arXiv:2003.13865.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from ...model.errors import UsageError
from ...model.readers.windows import NAMED_WINDOWS

Part = Literal["train", "val", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
FOLDER = "ucsd_covid_ct"
#: Every image is squeezed to this many pixels a side: neither size nor aspect is left to tell the classes apart.
SIDE = 352
JPEG_QUALITY = 90
#: A line of pixels is margin where nearly all of it is paper or frame.
WHITE, BLACK, FLAT_SHARE = 245, 10, 0.98
#: At most this share of a side is peeled off, so that an image that is nearly all black keeps its middle.
LARGEST_MARGIN = 0.3


class UcsdFile(NamedTuple):
    """A row of ``split.csv``; ``mode`` is the colour mode of the published file (``L``, ``RGB``, ``RGBA``)."""

    path: Path
    covid: bool
    patient: str
    mode: str


def ucsd_files(folder: Path, split: Part, *, final: bool = False) -> list[UcsdFile]:
    """The files of one official split, in the order of ``split.csv``.

    Args:
        folder: the folder that holds the data sets.
        final: only `coronanet evaluate --final` says True, which opens the test split and writes down that it did.

    Raises:
        UsageError: the data set is not in ``folder``, or the test split is asked for without ``final``.
    """
    if split == "test" and not final:
        raise UsageError("the test split of UCSD COVID-CT is opened by `coronanet evaluate --final` alone: use val")
    root = folder / FOLDER
    table = root / "split.csv"
    if not table.is_file():
        raise UsageError(f"no {table}: --data must be the folder that holds the data sets (see the README, Training)")
    with table.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == split]
    if not rows:
        raise UsageError(f"{table} lists no image of the split '{split}'")
    return [UcsdFile(root / row["file"], row["covid"] == "1", row["patient_id"], row["orig_mode"]) for row in rows]


def ucsd_images(folder: Path, split: Part, *, final: bool = False) -> Iterator[tuple[Path, NDArray[np.int16], bool]]:
    """Path, image in HU int16 ``[352, 352]``, and whether it is COVID-19, one by one; arguments as ``ucsd_files``.

    Raises:
        UsageError: as ``ucsd_files``, or an image cannot be decoded.
    """
    for file in ucsd_files(folder, split, final=final):
        yield file.path, to_hu(encode_alike(decode_grey(file.path))), file.covid


def decode_grey(path: Path) -> NDArray[np.uint8]:
    """Any 8-bit PNG or JPEG as grey ``[h, w]``; what is transparent lies on black, as in the published copies.

    Raises:
        UsageError: the file is missing, not a picture or not 8-bit.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    # Typed as never None, yet None is how OpenCV says that it cannot decode.
    pixels: Any = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if pixels is None or pixels.dtype != np.uint8:
        raise UsageError(f"cannot decode {path}: expected an 8-bit PNG or JPEG")
    if pixels.ndim == 2:
        return pixels
    grey = cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_BGR2GRAY)
    if pixels.shape[2] == 4:
        grey = np.rint(grey * (pixels[..., 3] / 255.0))
    return grey.astype(np.uint8)


def encode_alike(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image without margins, uint8 ``[352, 352]``, with the traces of one JPEG encoder on every image alike."""
    inner = grey[content_box(grey)]
    shrinks = min(inner.shape) >= SIDE
    square = cv2.resize(inner, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    encoded: Any = cv2.imencode(".jpg", square, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE).astype(np.uint8)


def content_box(grey: NDArray[np.uint8]) -> tuple[slice, slice]:
    """Rows and columns that remain when flat white and flat black margins are peeled off, side by side."""
    top, left, (bottom, right) = 0, 0, grey.shape
    limit = [int(side * LARGEST_MARGIN) for side in grey.shape]
    changed = True
    while changed:
        before = (top, bottom, left, right)
        inner = grey[top:bottom, left:right]
        rows, columns = _flat(inner, axis=1), _flat(inner, axis=0)
        top = min(top + _leading(rows), limit[0])
        bottom = max(bottom - _leading(rows[::-1]), grey.shape[0] - limit[0])
        left = min(left + _leading(columns), limit[1])
        right = max(right - _leading(columns[::-1]), grey.shape[1] - limit[1])
        changed = (top, bottom, left, right) != before
    return slice(top, bottom), slice(left, right)


def _flat(grey: NDArray[np.uint8], *, axis: int) -> NDArray[np.bool_]:
    """For each line across ``axis``, whether nearly all of it is white, or nearly all of it black."""
    white, black = (grey >= WHITE).mean(axis=axis), (grey <= BLACK).mean(axis=axis)
    return (white >= FLAT_SHARE) | (black >= FLAT_SHARE)


def _leading(flat: NDArray[np.bool_]) -> int:
    """How many lines from the start on are flat."""
    return int(flat.size if flat.all() else flat.argmin())


def to_hu(grey: NDArray[np.uint8]) -> NDArray[np.int16]:
    """Grey 0..255 as -1350..150 HU, the convention of the data's README."""
    window = NAMED_WINDOWS["lung"]
    return np.rint(window.low_hu + grey * ((window.high_hu - window.low_hu) / 255.0)).astype(np.int16)
