"""The size that a JPEG or JPEG-LS stream announces, read before a decoder takes memory for it."""

#: Start of frame: C0..CF but the tables C4, CC and the reserved C8 (ISO 10918-1), and F7 of JPEG-LS (ISO 14495-1).
_START_OF_FRAME = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}
#: Markers that stand alone: TEM, the restarts, start and end of image.
_BARE = frozenset((0x01, *range(0xD0, 0xDA)))


def jpeg_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns), None where the header is broken; ``stream`` begins with the start of an image, FF D8."""
    position = 2
    while position + 9 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker in _START_OF_FRAME:
            return _number(stream, position + 5), _number(stream, position + 7)
        # A marker without a length, or a fill byte, is stepped over.
        bare = 1 if marker == 0xFF else 2 if marker in _BARE else None
        position += bare or 2 + _number(stream, position + 2)
    return None


def _number(stream: bytes, position: int) -> int:
    return int.from_bytes(stream[position : position + 2], "big")
