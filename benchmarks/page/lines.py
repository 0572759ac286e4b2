"""Line charts: what changes with load or batch, side by side in panels."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...pages import svg
from .legend import Key, legend

WIDTH, GAP = 960, 40
LEFT, TOP, BOTTOM = 62, 34, 46


@dataclass(frozen=True)
class Series:
    """One line; ``hollow`` are the places of points that did not keep up, or otherwise count for less."""

    key: Key
    points: svg.Points
    hollow: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Rule:
    """A line across a panel at a value: ``across`` of the vertical axis, else of the horizontal one."""

    value: float
    words: str
    across: bool = True


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        places: where the horizontal axis is marked, evenly spaced whatever the values (1, 2, 4, 8 streams); none for an
            axis by value.
    """

    title: str
    x_name: str
    y_name: str
    series: Sequence[Series]
    places: Sequence[float] = ()
    log_y: bool = False
    rules: Sequence[Rule] = ()


def lines_svg(title: str, panels: Sequence[Panel], *, columns: int = 2, height: float = 230) -> str:
    """The panels in rows of ``columns``, one legend for all below them."""
    columns = min(columns, len(panels))
    width = (WIDTH - GAP * (columns - 1)) / columns
    full = TOP + height + BOTTOM
    parts: list[str] = []
    for place, panel in enumerate(panels):
        left = place % columns * (width + GAP)
        parts += _panel(panel, left, place // columns * full, width, height)
    rows = -(-len(panels) // columns)
    keys = list(dict.fromkeys(series.key for panel in panels for series in panel.series))
    entries, own = legend(keys, LEFT, rows * full + 12, WIDTH - LEFT)
    return svg.svg(WIDTH, rows * full + own + 6, title, [*parts, *entries])


def _panel(panel: Panel, left: float, top: float, width: float, height: float) -> list[str]:
    x, y = _scales(panel, left, top, width, height)
    foot, right = top + TOP + height, left + width - 14
    parts = [svg.text(left + LEFT, top + 18, panel.title, size=13, fill=svg.INK, bold=True)]
    for value in y.ticks(5):
        parts.append(svg.segment(left + LEFT, y(value), right, y(value)))
        parts.append(svg.text(left + LEFT - 8, y(value) + 4, svg.number(value), "end"))
    parts.append(svg.segment(left + LEFT, foot, right, foot, svg.AXIS))
    for place, value in enumerate(panel.places or x.ticks(6)):
        at = x(place if panel.places else value)
        parts.append(svg.segment(at, foot, at, foot + 4, svg.AXIS))
        parts.append(svg.text(at, foot + 17, svg.number(value), "middle"))
    parts.append(svg.text((left + LEFT + right) / 2, foot + 36, panel.x_name, "middle"))
    parts.append(svg.text(left + 13, top + TOP + height / 2, panel.y_name, "middle", turned=True))
    for series in panel.series:
        points = [(x(_place(panel, at)), y(value)) for at, value in series.points]
        parts.append(svg.polyline(points, series.key.colour, 2.2, series.key.dashes or ""))
        if series.key.shape is None:
            continue
        for number, ((px, py), (at, value)) in enumerate(zip(points, series.points, strict=True)):
            words = f"{series.key.name}: {value:.3g} at {at:.3g}"
            hollow = number in series.hollow
            parts.append(svg.mark(px, py, series.key.shape, series.key.colour, size=4.5, title=words, hollow=hollow))
    for rule in panel.rules:
        parts += _rule(rule, x, y, (left + LEFT, right, top + TOP, foot))
    return parts


def _scales(panel: Panel, left: float, top: float, width: float, height: float) -> tuple[svg.Scale, svg.Scale]:
    xs = [at for series in panel.series for at, _ in series.points]
    ys = [value for series in panel.series for _, value in series.points]
    ys += [rule.value for rule in panel.rules if rule.across]
    start, end = left + LEFT + 14, left + width - 28
    if panel.places:
        x = svg.Scale(0, max(1, len(panel.places) - 1), start, end)
    else:
        x = svg.Scale(0, svg.top(max(xs)), start - 14, end)
    foot = top + TOP + height
    if panel.log_y:
        low, high = svg.log_range(ys)
        return x, svg.Scale(low, high, foot, top + TOP, log=True)
    return x, svg.Scale(0, svg.top(max(ys)), foot, top + TOP)


def _place(panel: Panel, value: float) -> float:
    return list(panel.places).index(value) if panel.places else value


def _rule(rule: Rule, x: svg.Scale, y: svg.Scale, box: tuple[float, float, float, float]) -> list[str]:
    left, right, top, foot = box
    if rule.across:
        at = y(rule.value)
        return [
            svg.segment(left, at, right, at, svg.INK, width=1.4, dashes="6 4"),
            svg.text(left + 6, at - 6, rule.words, fill=svg.INK, halo=True),
        ]
    at = x(rule.value)
    return [
        svg.segment(at, top, at, foot, svg.AXIS, width=1.2, dashes="2 4"),
        svg.text(at + 5, top + 10, rule.words),
    ]
