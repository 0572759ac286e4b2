"""The pixels of DICOM files, decoded frame by frame; pydicom decodes, with the plugins that are installed."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.filereader import read_file_meta_info
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import UID

from ...errors import UsageError
from ..hounsfield import to_hounsfield
from .codestream import codestream_size
from .files import DAMAGED, open_pixels, quiet
from .frames import Frame

_HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")


def read_pixels(frames: Sequence[Frame], volume: NDArray[np.int16]) -> Iterator[int]:
    """Fill ``volume``, int16 HU ``[Z, H, W]``, with frames of one size in their order; the index of each once it is in.

    Raises:
        UsageError: a file is cut off or damaged, needs a decoder that is not there, or holds no Hounsfield units.
    """
    places: dict[Path, list[int]] = defaultdict(list)
    for place, frame in enumerate(frames):
        places[frame.path].append(place)
    _silence_gdcm()
    for here in places.values():
        decoded = _decode([frames[place] for place in here])
        for place in here:
            volume[place] = _next_slice(decoded, frames[place])
            yield place


def _next_slice(decoded: Iterator[NDArray[Any]], frame: Frame) -> NDArray[np.int16]:
    try:
        with quiet():
            return to_hounsfield(next(decoded), slope=frame.slope, intercept=frame.intercept, origin=str(frame.path))
    except (*DAMAGED, RuntimeError, StopIteration) as error:
        raise UsageError(
            f"{frame.path} is truncated or damaged: its pixels cannot be decoded ({type(error).__name__})"
        ) from None


def _decode(frames: Sequence[Frame]) -> Iterator[NDArray[Any]]:
    """The stored values of some frames of one file, one after the other, each of the size that its header says."""
    header = frames[0].header
    path, indices = header.path, [frame.index for frame in frames]
    syntax = read_file_meta_info(path).TransferSyntaxUID
    source = open_pixels(path, header.pixel_bytes)
    if UID(syntax).is_encapsulated:
        _check_decoder(UID(syntax), path)
        decoded = _decode_encapsulated(source, frames)
    else:
        decoded = iter_pixels(source, indices=indices)
    for stored in decoded:
        if stored.shape != frames[0].size:
            raise _not_as_announced(path, stored.shape)
        yield stored


def _decode_encapsulated(source: Path | BytesIO, frames: Sequence[Frame]) -> Iterator[NDArray[Any]]:
    header = frames[0].header
    dataset = pydicom.dcmread(source)
    streams = list(generate_frames(dataset.PixelData, number_of_frames=header.frames))
    for frame in frames:
        # A decoder takes memory for what the stream itself announces, which need not be what the header says.
        size = codestream_size(streams[frame.index])
        if size is not None and size != frame.size:
            raise _not_as_announced(header.path, size)
    yield from iter_pixels(dataset, indices=[frame.index for frame in frames])


def _not_as_announced(path: Path, shape: Sequence[int]) -> UsageError:
    return UsageError(f"{path} decodes to {list(shape)} pixels, not to what its header says: copy it again")


def _check_decoder(syntax: UID, path: Path) -> None:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        raise UsageError(
            f"{path} is compressed as {syntax.name}, which is not read: export the series uncompressed"
        ) from None
    if not available:
        packages = "pylibjpeg pylibjpeg-openjpeg" if syntax in _HTJ2K else "'coronanet[dicom]'"
        raise UsageError(
            f"{path} is compressed as {syntax.name}, which needs a decoder that is not here: pip install {packages}, "
            "or export the series uncompressed"
        )


def _silence_gdcm() -> None:
    """GDCM writes to stderr on its own, and quotes what it read."""
    if find_spec("gdcm") is None:
        return
    import gdcm

    for stop in (gdcm.Trace.DebugOff, gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
        stop()
