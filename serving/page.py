"""``report.html``: the report of a study as one page that needs nothing beside it, on a screen and on paper."""

import base64
from collections.abc import Mapping
from typing import Any

from ..model.severity import Region
from ..model.tasks import LESION_TYPES
from ..pages.page import render
from .overlay import LESION_COLOUR, LUNG_COLOUR, TYPE_COLOURS, hex_colour
from .profile import profile_svg
from .report import Report


def render_page(report: Report, montage_png: bytes) -> str:
    """The page; what comes from the input, such as the study's name, is escaped.

    Args:
        report: what ``report.json`` says.
        montage_png: the slices with what was found drawn over them, as PNG.
    """
    return render(
        f"{__package__}.templates",
        "report.html",
        report=report,
        montage=base64.b64encode(montage_png).decode("ascii"),
        profile=_profile(report),
        regions=_regions(report),
        legend=_legend(),
        effusion_ml=report.severity.effusion_ml,
    )


def _profile(report: Report) -> str:
    """The SVG, empty for a single slice and where the heights are not known. The template takes it as it is, for it
    holds no word of the input's.
    """
    spacing = report.input.spacing_mm
    return "" if spacing is None or len(report.slices) < 2 else profile_svg(report.slices, spacing[1:])


def _regions(report: Report) -> Mapping[str, Region]:
    """The rows of the table of extent."""
    severity = report.severity
    sides = {f"{name.capitalize()} side": region for name, region in (severity.sides or {}).items()}
    zones = {f"{name.capitalize()} third": region for name, region in (severity.zones or {}).items()}
    return {"Both lungs": severity.whole, **sides, **zones}


def _legend() -> list[dict[str, Any]]:
    """What the colours of the montage mean; lines are drawn around, kinds are filled."""
    lines = {"lung": LUNG_COLOUR, "lesion, binary network": LESION_COLOUR}
    return [
        *({"name": name, "colour": hex_colour(colour), "filled": False} for name, colour in lines.items()),
        *(
            {"name": LESION_TYPES[label], "colour": hex_colour(colour), "filled": True}
            for label, colour in TYPE_COLOURS.items()
        ),
    ]
