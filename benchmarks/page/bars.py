"""Bars that lie beside each other: how long each of a few things took, against a limit."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...pages import svg

WIDTH, LEFT, RIGHT, TOP, ROW = 960, 330, 60, 10, 26


@dataclass(frozen=True)
class Bar:
    """One row: a length, and the words behind it."""

    name: str
    value: float
    words: str
    colour: str = svg.BLUE


def bars_svg(title: str, unit: str, bars: Sequence[Bar], *, limit: tuple[float, str] | None = None) -> str:
    """The bars on an axis from 0; ``limit`` is a value and its words, drawn across all of them."""
    longest = max([bar.value for bar in bars] + ([limit[0]] if limit else []))
    x = svg.Scale(0, svg.top(longest, 8), LEFT, WIDTH - RIGHT)
    top = TOP + (16 if limit else 0)
    foot = top + ROW * len(bars)
    parts: list[str] = []
    for value in x.ticks(8):
        parts.append(svg.segment(x(value), top, x(value), foot))
        parts.append(svg.text(x(value), foot + 16, svg.number(value), "middle"))
    parts.append(svg.text((LEFT + WIDTH - RIGHT) / 2, foot + 34, unit, "middle"))
    for row, bar in enumerate(bars):
        y = top + ROW * row
        parts.append(svg.text(LEFT - 12, y + 17, bar.name, "end", fill=svg.INK))
        parts.append(svg.box(LEFT, y + 4, x(bar.value) - LEFT, ROW - 9, bar.colour))
        parts.append(svg.text(x(bar.value) + 6, y + 17, bar.words, halo=True))
    if limit:
        at = x(limit[0])
        parts.append(svg.segment(at, top, at, foot, svg.INK, width=1.4, dashes="6 4"))
        parts.append(svg.text(at, top - 5, limit[1], "middle", fill=svg.INK, halo=True))
    return svg.svg(WIDTH, foot + 42, title, parts)
