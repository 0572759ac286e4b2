"""Charts as SVG text: axes, lines, marks and words; nothing is loaded and nothing runs.

Colours are Okabe and Ito's, which colour-blind people tell apart; dashes and shapes do where a printer makes all grey.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

AXIS, GRID, GREY = "#5b6470", "#e6e8eb", "#d4d7dc"
INK = "#1b2430"
SKY, ORANGE, GREEN, VERMILION = "#56b4e9", "#e69f00", "#009e73", "#d55e00"
BLUE, PURPLE, YELLOW = "#0072b2", "#cc79a7", "#f0e442"
#: In the order in which series take them; yellow is too pale for a line on white.
SERIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, "#4d4d4d")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2")
SHAPES: "tuple[Shape, ...]" = ("circle", "square", "triangle", "diamond", "cross")

Points = Sequence[tuple[float, float]]
Shape = Literal["circle", "square", "triangle", "diamond", "cross"]
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Scale:
    """Values to places: ``low`` .. ``high`` over ``start`` .. ``end``, evenly or by powers."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, 1e-12) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """Round values within the scale, about ``count``; of a log scale 1, 2 and 5 times powers of ten, or these."""
        if not self.log:
            step = ceiling((self.high - self.low) / count)
            first = math.ceil(self.low / step - 1e-9)
            return [step * place for place in range(first, math.floor(self.high / step + 1e-9) + 1)]
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for steps, stride in (((1, 2, 5), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
            values = [step * 10.0**power for power in powers if power % stride == 0 for step in steps]
            within = [value for value in values if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9)]
            if len(within) <= count + 2:
                return within
        return within


def log_range(values: Sequence[float]) -> tuple[float, float]:
    """Bounds for a log scale with all ``values`` in it: 1, 2 or 5 times a power of ten; ``values`` above 0."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    steps = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    low = max(step for step in steps if step <= min(values) * 1.0001)
    high = min(step for step in steps if step >= max(values) * 0.9999)
    return (low, high) if high > low else (low / 2, high * 2)


def svg(width: float, height: float, title: str, parts: Sequence[str], *, kind: str = "chart") -> str:
    """A picture that fills the width it is given; ``title`` is what is read aloud."""
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" class="{kind}">',
            f"<title>{escape(title)}</title>",
            *parts,
            "</svg>",
        ]
    )


def text(
    x: float,
    y: float,
    words: str,
    anchor: Anchor = "start",
    *,
    size: float = 12,
    fill: str = AXIS,
    turned: bool = False,
    bold: bool = False,
    halo: bool = False,
) -> str:
    """Words at a place; ``turned`` to be read from the right, with a ``halo`` to be read over lines."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    weight = ' font-weight="600"' if bold else ""
    weight += ' paint-order="stroke" stroke="#ffffff" stroke-width="4"' if halo else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size:g}" fill="{fill}"{weight}{turn}>'
        f"{escape(words)}</text>"
    )


def segment(
    x1: float, y1: float, x2: float, y2: float, stroke: str = GRID, *, width: float = 1, dashes: str = ""
) -> str:
    return (
        f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="{stroke}" stroke-width="{width:g}"'
        f"{_broken(dashes)}/>"
    )


def polyline(points: Points, stroke: str, width: float = 2, dashes: str = "") -> str:
    return (
        f'<polyline points="{_join(points)}" fill="none" stroke="{stroke}" stroke-width="{width:g}" '
        f'stroke-linejoin="round"{_broken(dashes)}/>'
    )


def polygon(points: Points, fill: str, stroke: str = AXIS) -> str:
    return f'<polygon points="{_join(points)}" fill="{fill}" stroke="{stroke}" stroke-width="1"/>'


def box(
    x: float,
    y: float,
    width: float,
    height: float,
    fill: str,
    *,
    stroke: str = "none",
    title: str = "",
    faint: bool = False,
) -> str:
    """A rectangle; ``title`` shows when it is pointed at."""
    opacity = ' opacity="0.4"' if faint else ""
    inside = f"><title>{escape(title)}</title></rect>" if title else "/>"
    return (
        f'<rect x="{x:.2f}" y="{y:.2f}" width="{max(width, 0):.2f}" height="{height:.2f}" fill="{fill}" '
        f'stroke="{stroke}"{opacity}{inside}'
    )


def mark(x: float, y: float, shape: Shape, fill: str, *, size: float = 5, title: str = "", hollow: bool = False) -> str:
    """One point of a chart; ``title`` shows when it is pointed at."""
    r = size
    inside = f"><title>{escape(title)}</title></" if title else None
    if shape == "circle":
        body, name = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"', "circle"
    else:
        corners = {
            "square": [(-r, -r), (r, -r), (r, r), (-r, r)],
            "triangle": [(0, -1.2 * r), (1.1 * r, 0.8 * r), (-1.1 * r, 0.8 * r)],
            "diamond": [(0, -1.3 * r), (1.3 * r, 0), (0, 1.3 * r), (-1.3 * r, 0)],
            "cross": [
                *((-r, -r / 3), (-r / 3, -r / 3), (-r / 3, -r), (r / 3, -r), (r / 3, -r / 3), (r, -r / 3)),
                *((r, r / 3), (r / 3, r / 3), (r / 3, r), (-r / 3, r), (-r / 3, r / 3), (-r, r / 3)),
            ],
        }[shape]
        body, name = f'<polygon points="{_join([(x + dx, y + dy) for dx, dy in corners])}"', "polygon"
    paint = ("#ffffff", fill, 1.8) if hollow else (fill, "#ffffff", 1)
    body += f' fill="{paint[0]}" stroke="{paint[1]}" stroke-width="{paint[2]:g}"'
    return f"{body}{inside}{name}>" if inside else f"{body}/>"


def ceiling(value: float) -> float:
    """The next number that reads well on an axis: 1, 2, 4, 6, 8 or 10 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if value <= step * power * (1 + 1e-9))


def top(value: float, steps: int = 5) -> float:
    """Where an axis from 0 ends that holds ``value`` in about so many round steps."""
    step = ceiling(value / steps)
    return step * math.ceil(value / step - 1e-9)


def number(value: float) -> str:
    """A value as an axis has it."""
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 else f"{value:g}"


def _join(points: Points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _broken(dashes: str) -> str:
    return f' stroke-dasharray="{dashes}"' if dashes else ""
