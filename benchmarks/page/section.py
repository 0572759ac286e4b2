"""What the page is made of, whatever was measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Grid:
    """A table: ``words`` columns of text, then ``numbers`` columns that stand right; cells as they are shown."""

    words: Sequence[str]
    numbers: Sequence[str]
    rows: Sequence[Sequence[str]]
    #: Places of the rows that are set apart: what `auto` runs, or what adds up.
    marked: frozenset[int] = frozenset()
    note: str = ""


@dataclass(frozen=True)
class Chart:
    """A picture as SVG text, which this program wrote and which holds no word of anybody else's unescaped."""

    svg: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """One part of the page, in this order: what it says, pictures, tables, what must be read with them."""

    title: str
    says: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    grids: Sequence[Grid] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Card:
    """A figure that stands out."""

    figure: str
    words: str


@dataclass(frozen=True)
class Part:
    """What one report adds to the page."""

    cards: Sequence[Card] = ()
    sections: Sequence[Section] = field(default_factory=list[Section])


def ms(value: float | None) -> str:
    """Milliseconds as tables have them."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}"


def short(task: str) -> str:
    """A model's name as people say it."""
    return task.removesuffix("_segmentation").replace("_segmentation", "").replace("_", " ")
