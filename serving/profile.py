"""The course of the disease from the feet to the head, as an SVG picture of a report."""

from collections.abc import Sequence

from ..model.findings import SliceFindings
from ..pages import svg
from .overlay import LESION_COLOUR, TYPE_COLOURS, hex_colour

WIDTH, LEFT, RIGHT = 960, 56, 14
#: Top and height of the panel of the lungs, and of that of the lesions.
LUNG_PANEL, LESION_PANEL = (22, 74), (128, 150)
HEIGHT = LESION_PANEL[0] + LESION_PANEL[1] + 44
#: Broken lines as well as colours: what a printer makes grey stays apart.
DASHES = {"ground_glass": "", "consolidation": "7 3", "pleural_effusion": "2 3"}


def profile_svg(slices: Sequence[SliceFindings], pixel_mm: tuple[float, float]) -> str:
    """Areas in square centimetres against the height in centimetres; ``pixel_mm`` is (between rows, columns).

    Above, the lungs; below, each kind of lesion and, in a thin line, what the binary network calls lesion. Only numbers
    and this program's own words are in it. Slices must have a position.
    """
    heights = [(item.position_mm or 0.0) / 10 for item in slices]
    cm2 = pixel_mm[0] * pixel_mm[1] / 100
    span = max(heights[-1] - heights[0], 1e-6)

    def x(height: float) -> float:
        return LEFT + (height - heights[0]) / span * (WIDTH - LEFT - RIGHT)

    lung = [item.lung_pixels * cm2 for item in slices]
    kinds = {name: [item.pixels_by_type[name] * cm2 for item in slices] for name in DASHES}
    lesion = [item.lesion_pixels * cm2 for item in slices]
    top = svg.ceiling(max(1.0, *lesion, *(max(areas) for areas in kinds.values())))
    parts = [
        *_thirds(slices, [x(height) for height in heights]),
        *_panel(LUNG_PANEL, svg.ceiling(max(1.0, *lung)), "lung, cm²", steps=1),
        *_panel(LESION_PANEL, top, "lesion, cm²", steps=4),
        _area([(x(h), _y(a, LUNG_PANEL, svg.ceiling(max(1.0, *lung)))) for h, a in zip(heights, lung, strict=True)]),
        svg.polyline(
            [(x(h), _y(a, LESION_PANEL, top)) for h, a in zip(heights, lesion, strict=True)],
            hex_colour(LESION_COLOUR),
            1.2,
        ),
    ]
    for label, (name, areas) in enumerate(kinds.items(), start=1):
        points = [(x(h), _y(a, LESION_PANEL, top)) for h, a in zip(heights, areas, strict=True)]
        parts.append(svg.polyline(points, hex_colour(TYPE_COLOURS[label]), 2.2, DASHES[name]))
    bottom = LESION_PANEL[0] + LESION_PANEL[1]
    parts += [svg.text(x(heights[0] + tick), bottom + 16, f"{tick:g}", "middle") for tick in _ticks(span)]
    caption = "feet  ←  height above the first slice, cm  →  head"
    parts.append(svg.text((LEFT + WIDTH - RIGHT) / 2, bottom + 36, caption, "middle"))
    title = "Area of lung and of each kind of lesion in every slice, from the feet to the head"
    return svg.svg(WIDTH, HEIGHT, title, parts, kind="profile")


def _thirds(slices: Sequence[SliceFindings], places: Sequence[float]) -> list[str]:
    """Where the lower, middle and upper third of the lungs lie, about."""
    shown = [place for place, item in zip(places, slices, strict=True) if item.lung_pixels]
    if len(shown) < 3:
        return []
    low, high = shown[0], shown[-1]
    parts: list[str] = []
    for third, name in enumerate(("lower third", "middle third", "upper third")):
        start = low + (high - low) * third / 3
        parts.append(svg.text(start + (high - low) / 6, LUNG_PANEL[0] - 8, name, "middle"))
        if third:
            bottom = LESION_PANEL[0] + LESION_PANEL[1]
            parts.append(svg.segment(start, LUNG_PANEL[0] - 16, start, bottom, svg.AXIS, width=0.8, dashes="3 4"))
    return parts


def _panel(panel: tuple[int, int], top: float, name: str, *, steps: int) -> list[str]:
    parts: list[str] = []
    for step in range(steps + 1):
        y = _y(top * step / steps, panel, top)
        parts.append(svg.segment(LEFT, y, WIDTH - RIGHT, y, svg.AXIS if step == 0 else svg.GRID))
        parts.append(svg.text(LEFT - 8, y + 4, f"{top * step / steps:g}", "end"))
    middle = panel[0] + panel[1] / 2
    parts.append(svg.text(14, middle, name, "middle", turned=True))
    return parts


def _y(area: float, panel: tuple[int, int], top: float) -> float:
    return panel[0] + panel[1] * (1 - area / top)


def _area(points: svg.Points) -> str:
    foot = LUNG_PANEL[0] + LUNG_PANEL[1]
    return svg.polygon([(points[0][0], foot), *points, (points[-1][0], foot)], svg.GREY)


def _ticks(span: float) -> list[float]:
    """Some six round heights within the stack."""
    step = svg.ceiling(span / 6)
    return [step * index for index in range(int(span / step + 1e-6) + 1)]
