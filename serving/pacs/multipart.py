"""Multipart bodies of DICOMweb (RFC 2046; PS3.18, 8.7.1): one part out of an answer, files into a request."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

_LONGEST_HEAD = 2**16
_CHUNK = 2**20


class NotMultipartError(Exception):
    """An answer that has not the form it should have; the text says what it lacks."""


def parse_content_type(value: str) -> tuple[str, str]:
    """The media type in lower case, and its boundary, empty where it has none."""
    message = Message()
    message["Content-Type"] = value
    boundary = message.get_boundary("")
    return message.get_content_type(), boundary


def first_part(chunks: Iterable[bytes], boundary: str) -> Generator[bytes]:
    """The body of the first part, piece by piece.

    Raises:
        NotMultipartError: there is no such part, or it does not end.
    """
    stream = iter(chunks)
    opening, closing = b"--" + boundary.encode(), b"\r\n--" + boundary.encode()
    head = b""
    while b"\r\n\r\n" not in head.partition(opening)[2]:
        if len(head) > _LONGEST_HEAD:
            raise NotMultipartError("no beginning of a part")
        head += _next(stream, "no part")
    rest = head.partition(opening)[2].partition(b"\r\n\r\n")[2]
    while (end := rest.find(closing)) < 0:
        # The delimiter may be cut by the end of a chunk.
        sure = max(0, len(rest) - len(closing) + 1)
        yield rest[:sure]
        rest = rest[sure:] + _next(stream, "a part without an end")
    yield rest[:end]
    for _ in stream:
        pass


def _next(stream: Iterator[bytes], missing: str) -> bytes:
    chunk = next(stream, None)
    if chunk is None:
        raise NotMultipartError(missing)
    return chunk


@dataclass(frozen=True)
class Upload:
    """Files as the parts of one request body."""

    files: Sequence[Path]
    boundary: str
    part_type: str = "application/dicom"

    @property
    def content_type(self) -> str:
        return f'multipart/related; type="{self.part_type}"; boundary={self.boundary}'

    @property
    def length(self) -> int:
        return sum(len(self._head) + file.stat().st_size + 2 for file in self.files) + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        for path in self.files:
            yield self._head
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
            yield b"\r\n"
        yield self._tail

    @property
    def _head(self) -> bytes:
        return f"--{self.boundary}\r\nContent-Type: {self.part_type}\r\n\r\n".encode()

    @property
    def _tail(self) -> bytes:
        return f"--{self.boundary}--\r\n".encode()
