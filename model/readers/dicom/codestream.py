"""The size that a compressed frame announces itself, read before a decoder takes memory for it."""

#: JPEG and JPEG-LS start of frame: C0..CF but the tables C4, CC and the reserved C8 (ISO 10918-1); F7 (ISO 14495-1).
_START_OF_FRAME = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}
#: Markers that stand alone: TEM, the restarts, start and end of image.
_BARE = frozenset((0x01, *range(0xD0, 0xDA)))


def codestream_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) of a JPEG, JPEG-LS or JPEG 2000 codestream, None where it is none or its header is broken."""
    if stream.startswith(b"\xff\xd8"):
        return _jpeg_size(stream)
    if stream.startswith(b"\xff\x4f\xff\x51"):
        return _jpeg2000_size(stream)
    # Some writers put the whole JP2 file where only its codestream belongs.
    start = stream.find(b"\xff\x4f\xff\x51", 0, 4096) if stream[4:8] == b"jP  " else -1
    return _jpeg2000_size(stream[start:]) if start > 0 else None


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker in _START_OF_FRAME:
            return _number(stream, position + 5, 2), _number(stream, position + 7, 2)
        bare = 1 if marker == 0xFF else 2 if marker in _BARE else None
        position += bare or 2 + _number(stream, position + 2, 2)
    return None


def _jpeg2000_size(stream: bytes) -> tuple[int, int] | None:
    """The image area of the SIZ segment: its far corner less its offset (ISO 15444-1, A.5.1)."""
    if len(stream) < 24:
        return None
    columns, rows, left, top = (_number(stream, 8 + 4 * place, 4) for place in range(4))
    return rows - top, columns - left


def _number(stream: bytes, position: int, count: int) -> int:
    return int.from_bytes(stream[position : position + count], "big")
