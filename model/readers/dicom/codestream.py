"""The size that a compressed frame announces itself, read before a decoder takes memory for it."""

from ..jpeg import jpeg_size


def codestream_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS or JPEG 2000 codestream, None where it is none or its header is broken."""
    if stream.startswith(b"\xff\xd8"):
        return jpeg_size(stream)
    if stream.startswith(b"\xff\x4f\xff\x51"):
        return _jpeg2000_size(stream)
    # Some writers put the whole JP2 file where only its codestream belongs.
    start = stream.find(b"\xff\x4f\xff\x51", 0, 4096) if stream[4:8] == b"jP  " else -1
    return _jpeg2000_size(stream[start:]) if start > 0 else None


def _jpeg2000_size(stream: bytes) -> tuple[int, int] | None:
    """The image area of the SIZ segment: its far corner less its offset (ISO 15444-1, A.5.1)."""
    if len(stream) < 24:
        return None
    columns, rows, left, top = (int.from_bytes(stream[at : at + 4], "big") for at in range(8, 24, 4))
    return rows - top, columns - left
