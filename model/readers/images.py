"""8-bit PNG and JPEG, with an explicit window; OpenCV decodes them."""

import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..card import Window
from ..errors import UsageError
from ..study import Study
from .hounsfield import check_size
from .jpeg import jpeg_size

#: Grey stored as a colour JPEG comes back with channels that differ by a few levels; a real colour differs by more.
MAX_CHROMA = 32

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"


def read_image(path: Path, window: Window | None) -> Study:
    """One slice from an 8-bit grey image: grey 0..255 becomes ``window`` linearly.

    The pixels are taken as stored: an EXIF orientation is not applied, so a mask lies on the file's own pixels.

    Raises:
        UsageError: there is no window, or the file is damaged, too large, not 8-bit or not grey.
    """
    if window is None:
        raise UsageError(
            f"{path} is an 8-bit image, which does not say what its greys mean: pass the window it was made with, "
            "e.g. --window -1350 150"
        )
    grey = read_grey(path)
    low, high = window.low_hu, window.high_hu
    table = np.rint(low + np.arange(256) * ((high - low) / 255.0)).astype(np.int16)
    note = f"8-bit image, grey 0 to 255 read as {low:g} to {high:g} HU; the orientation of the patient is not recorded"
    return Study(path.stem, table[grey][None], "image", window_hu=(low, high), notes=(note,))


def read_grey(path: Path) -> NDArray[np.uint8]:
    """The grey levels of an 8-bit picture, uint8 ``[H, W]``, as stored.

    Raises:
        UsageError: the file is damaged, too large, not 8-bit or not grey.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if data.startswith(_PNG):
        size = _png_size(data)
    elif data.startswith(_JPEG):
        size = _jpeg_size(data)
    else:
        raise UsageError(f"{path} is neither PNG nor JPEG by its content: save it as one of them")
    damaged = UsageError(f"{path} is damaged or truncated: copy or save it again", page="corrupted-file")
    if size is None:
        raise damaged
    check_size(1, *size, origin=str(path))
    pixels = _imdecode(data)
    if pixels is None or pixels.shape[:2] != size:
        raise damaged
    return _grey(pixels, path)


def _imdecode(data: bytes) -> NDArray[Any] | None:
    """OpenCV's decoder, which answers None (though its types say never) or raises where it cannot."""
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def _grey(pixels: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    if pixels.dtype != np.uint8:
        raise UsageError(
            f"{path} is a {pixels.dtype.itemsize * 8}-bit image; expected 8 bits, because a window says what 256 greys "
            "mean: export 8-bit with a known window, or use DICOM or NIfTI"
        )
    values = pixels.astype(np.uint8, copy=False)
    if values.ndim == 2:
        return values
    if values.shape[2] == 4:
        if values[..., 3].min() < 255:
            raise UsageError(f"{path} has transparent pixels: save it without an alpha channel")
        values = values[..., :3]
    if int((values.max(axis=2) - values.min(axis=2)).max()) > MAX_CHROMA:
        raise UsageError(f"{path} is a colour image: expected a grey CT slice without coloured marks or lettering")
    return np.rint(values.mean(axis=2)).astype(np.uint8)


def _png_size(data: bytes) -> tuple[int, int] | None:
    """(height, width), or None where a chunk is cut off or has a wrong checksum.

    OpenCV fills what is missing with grey and says nothing, so the file is walked first.
    """
    size, position = None, len(_PNG)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        body = data[position + 4 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if int.from_bytes(checksum, "big") != zlib.crc32(body) or len(checksum) != 4:
            return None
        if size is None and body.startswith(b"IHDR"):
            size = (int.from_bytes(body[8:12], "big"), int.from_bytes(body[4:8], "big"))
        if body.startswith(b"IEND"):
            return size
        position += 12 + length
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width), or None where the header is broken or the end-of-image marker is missing."""
    return jpeg_size(data) if b"\xff\xd9" in data[-1024:] else None
