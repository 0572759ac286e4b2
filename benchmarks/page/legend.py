"""Keys of charts: one entry a series, in rows as long as the chart is wide."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...pages import svg

#: About how wide a letter of 12 px is, for want of a font to measure with.
LETTER = 6.7
ROW = 20


@dataclass(frozen=True)
class Key:
    """How a series looks: a line, a mark, or both."""

    name: str
    colour: str
    dashes: str | None = None
    shape: svg.Shape | None = None


def legend(keys: Sequence[Key], x: float, y: float, width: float) -> tuple[list[str], float]:
    """The entries from ``(x, y)`` on, and how high they are."""
    parts: list[str] = []
    left, top = x, y
    for key in keys:
        swatch = 26 if key.dashes is not None else 14
        need = swatch + 6 + len(key.name) * LETTER + 20
        if left > x and left + need > x + width:
            left, top = x, top + ROW
        if key.dashes is not None:
            parts.append(svg.segment(left, top, left + swatch, top, key.colour, width=2.2, dashes=key.dashes))
        if key.shape is not None:
            parts.append(svg.mark(left + swatch / 2, top, key.shape, key.colour, size=4.5))
        parts.append(svg.text(left + swatch + 6, top + 4, key.name))
        left += need
    return parts, (top - y + ROW if keys else 0)
