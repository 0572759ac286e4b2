"""Points on two logarithmic axes: precision against speed with the front of what nothing beats, and the roofline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...pages import svg
from .legend import Key, legend

WIDTH, GAP = 960, 40
LEFT, TOP, BOTTOM = 66, 34, 46


@dataclass(frozen=True)
class Spot:
    """One point; ``good`` is false for what was refused or not proved, which is drawn hollow and beats nothing."""

    x: float
    y: float
    key: Key
    words: str
    good: bool = True


@dataclass(frozen=True)
class Roof:
    """A ceiling: ``slope`` times x, at most ``top``."""

    words: str
    slope: float
    top: float


@dataclass(frozen=True)
class Plot:
    """One pair of axes; ``floor`` is where a y of 0 is drawn, which a logarithm has no place for."""

    title: str
    x_name: str
    y_name: str
    spots: Sequence[Spot]
    floor: float | None = None
    roofs: Sequence[Roof] = ()


def front(spots: Sequence[Spot]) -> list[Spot]:
    """The Pareto front: what no other good point beats in both, smaller being better; from the smallest x on."""
    found: list[Spot] = []
    for spot in sorted((spot for spot in spots if spot.good), key=lambda spot: (spot.x, spot.y)):
        if not found or spot.y < found[-1].y:
            found.append(spot)
    return found


def scatter_svg(
    title: str, plots: Sequence[Plot], *, columns: int = 2, height: float = 230, stairs: bool = False
) -> str:
    """The plots in rows of ``columns``, one legend for all below; ``stairs`` draws the Pareto front of each."""
    columns = min(columns, len(plots))
    width = (WIDTH - GAP * (columns - 1)) / columns
    full = TOP + height + BOTTOM
    parts: list[str] = []
    for place, plot in enumerate(plots):
        parts += _plot(plot, place % columns * (width + GAP), place // columns * full, width, height, stairs=stairs)
    rows = -(-len(plots) // columns)
    keys = list(dict.fromkeys(spot.key for plot in plots for spot in plot.spots))
    entries, own = legend(keys, LEFT, rows * full + 12, WIDTH - LEFT)
    return svg.svg(WIDTH, rows * full + own + 6, title, [*parts, *entries])


def _plot(plot: Plot, left: float, top: float, width: float, height: float, *, stairs: bool) -> list[str]:
    foot, right = top + TOP + height, left + width - 20
    x, y = _scales(plot, (left + LEFT, right, top + TOP, foot))
    parts = [svg.text(left + LEFT, top + 18, plot.title, size=13, fill=svg.INK, bold=True)]
    for value in y.ticks(6):
        if plot.floor is not None and value <= plot.floor * 1.5:
            continue
        parts.append(svg.segment(left + LEFT, y(value), right, y(value)))
        parts.append(svg.text(left + LEFT - 8, y(value) + 4, _power(value), "end"))
    if plot.floor is not None:
        parts.append(svg.text(left + LEFT - 8, y(plot.floor) + 4, "0", "end"))
    parts.append(svg.segment(left + LEFT, foot, right, foot, svg.AXIS))
    for value in x.ticks(7):
        parts.append(svg.segment(x(value), foot, x(value), foot + 4, svg.AXIS))
        parts.append(svg.text(x(value), foot + 17, _power(value), "middle"))
    parts.append(svg.text((left + LEFT + right) / 2, foot + 36, plot.x_name, "middle"))
    parts.append(svg.text(left + 13, top + TOP + height / 2, plot.y_name, "middle", turned=True))
    for roof in plot.roofs:
        parts += _roof(roof, x, y)
    if stairs and (best := front(plot.spots)):
        steps = [(x(best[0].x), top + TOP)]
        for spot in best:
            steps += [(x(spot.x), steps[-1][1]), (x(spot.x), y(_above(spot.y, plot.floor)))]
        steps.append((right, steps[-1][1]))
        parts.append(svg.polyline(steps, svg.AXIS, 1.4, "5 3"))
    for spot in plot.spots:
        at = (x(spot.x), y(_above(spot.y, plot.floor)))
        parts.append(
            svg.mark(*at, spot.key.shape or "circle", spot.key.colour, size=6, title=spot.words, hollow=not spot.good)
        )
    return parts


def _scales(plot: Plot, box: tuple[float, float, float, float]) -> tuple[svg.Scale, svg.Scale]:
    left, right, top, foot = box
    xs = [spot.x for spot in plot.spots] + [roof.top / roof.slope for roof in plot.roofs]
    ys = [_above(spot.y, plot.floor) for spot in plot.spots] + [roof.top for roof in plot.roofs]
    low, high = svg.log_range([min(xs) / 1.15, max(xs) * 1.15])
    bottom, roof = svg.log_range([min(ys) / 1.15, max(ys) * 1.15])
    start = left + 12
    if plot.floor is not None:
        bottom = plot.floor
        return svg.Scale(low, high, start, right, log=True), svg.Scale(
            bottom, max(roof, 10 * bottom), foot - 10, top, log=True
        )
    return svg.Scale(low, high, start, right, log=True), svg.Scale(bottom, roof, foot, top, log=True)


def _roof(roof: Roof, x: svg.Scale, y: svg.Scale) -> list[str]:
    ridge = roof.top / roof.slope
    start = max(x.low, y.low / roof.slope)
    points = [(x(start), y(roof.slope * start)), (x(ridge), y(roof.top)), (x(x.high), y(roof.top))]
    return [
        svg.polyline(points, svg.AXIS, 1.4),
        svg.text(x(x.high) - 2, y(roof.top) - 5, roof.words, "end"),
    ]


def _above(value: float, floor: float | None) -> float:
    return value if floor is None else max(value, floor)


def _power(value: float) -> str:
    """Small and large values by their power of ten."""
    if 0.001 <= value < 10_000:
        return svg.number(float(f"{value:.3g}"))
    power = math.floor(math.log10(value) + 1e-9)
    digit = round(value / 10.0**power)
    return f"1e{power}" if digit == 1 else f"{digit}e{power}"
