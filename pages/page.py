"""Templates to pages: one HTML file that needs nothing beside it."""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined


def render(package: str, template: str, **values: Any) -> str:
    """The page of a template in ``package``, in the style that all share; every value is escaped.

    A template takes the style as ``style`` and has the filter `figure`.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figure"] = figure
    source = (files(package) / template).read_text(encoding="utf-8")
    style = (files(__package__ or "") / "style.css").read_text(encoding="utf-8")
    return environment.from_string(source).render(style=style, **values)


def figure(value: float | None, unit: str = "", digits: int = 1) -> str:
    """A number as people read it, a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}{unit and ' '}{unit}".replace(",", " ")
