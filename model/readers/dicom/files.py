"""The bytes of a DICOM file, of which nothing is believed before it is bounded; pydicom parses them."""

import logging
import struct
import threading
import warnings
import zlib
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from ...errors import UsageError

#: What pydicom raises on bytes that are not what their header promises.
DAMAGED = (
    BytesLengthException,
    InvalidDicomError,
    AttributeError,
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OSError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
#: All that may lie beside the pixels, e.g. the functional groups of an enhanced object of a thousand frames.
MAX_HEADER = 64 * 2**20
_PREAMBLE = b"\0" * 128 + b"DICM"
#: The element that holds the length of the file meta information stands before what it counts.
_META_START = len(_PREAMBLE) + 12


class _Silence:
    """One for all threads: what holds Python's warnings back is the process's own, not a thread's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._restore = ExitStack()

    def begin(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                log = logging.getLogger("pydicom")
                self._restore.callback(setattr, log, "disabled", log.disabled)
                log.disabled = True
                self._restore.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")

    def end(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._restore.close()


_silence = _Silence()


@contextmanager
def quiet() -> Generator[None]:
    """Hold back pydicom's warnings and log: they quote values of the header, which may name the patient."""
    _silence.begin()
    try:
        yield
    finally:
        _silence.end()


def parse_header(path: Path, tags: Sequence[str] | None = None) -> FileDataset:
    """The elements before the pixels, only ``tags`` where they are given.

    Raises:
        DAMAGED: the bytes are not DICOM.
    """
    meta = read_file_meta_info(path)
    wanted = None if tags is None else list(tags)
    if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        inflated, _ = _inflate(path, meta, MAX_HEADER)
        return pydicom.dcmread(inflated, stop_before_pixels=True, specific_tags=wanted)
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=wanted)


def open_pixels(path: Path, pixel_bytes: int) -> Path | BytesIO:
    """What pydicom can decode: the file itself, or its contents where they were deflated.

    Args:
        path: a file whose header was read.
        pixel_bytes: what its pixels take when decoded, as its header says and ``check_size`` allowed.

    Raises:
        UsageError: the file holds more than its header announces.
        DAMAGED: the bytes are not DICOM.
    """
    limit = pixel_bytes + MAX_HEADER
    too_much = UsageError(f"{path} holds more bytes than its header announces pixels for: export the series again")
    if path.stat().st_size > limit:
        raise too_much
    meta = read_file_meta_info(path)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return path
    inflated, whole = _inflate(path, meta, limit)
    if not whole:
        raise too_much
    return inflated


def _inflate(path: Path, meta: FileMetaDataset, limit: int) -> tuple[BytesIO, bool]:
    """The file without its compression, at most ``limit`` bytes of it, and whether that is all (PS3.5, A.5)."""
    with path.open("rb") as file:
        file.seek(_META_START + int(meta.FileMetaInformationGroupLength))
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        content = inflater.decompress(file.read(limit), limit)
    plain = FileMetaDataset()
    plain.TransferSyntaxUID = ExplicitVRLittleEndian
    header = DicomBytesIO()
    write_file_meta_info(header, plain, enforce_standard=False)
    return BytesIO(b"".join((_PREAMBLE, header.getvalue(), content))), inflater.eof
