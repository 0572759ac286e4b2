"""A report that has no charts of its own: its figures and lists as tables, so that no measurement is left out."""

from typing import Any

from ..report import Report
from .section import Grid, Part, Section

#: What every report has, and what the page shows in its own place.
KNOWN = {"schema_version", "notice", "units", "protocol"}
#: Lists longer than this are samples, which belong into a chart or nowhere.
MOST_ROWS = 60


def any_part(report: Report) -> Part:
    """One section, named by the verb that measured."""
    fields = {name: value for name, value in report.model_dump(mode="json").items() if name not in KNOWN}
    figures = [[name, _cell(value)] for name, value in _flat(fields)]
    grids = [Grid(("figure",), ("value",), figures)] if figures else []
    grids += [grid for name, value in fields.items() if isinstance(value, list) and (grid := _table(name, value))]
    return Part(sections=[Section(report.protocol.method.verb.removeprefix("bench ").capitalize(), grids=grids)])


def _flat(value: dict[str, Any], before: str = "") -> list[tuple[str, Any]]:
    """Every single figure, by the names that lead to it."""
    found: list[tuple[str, Any]] = []
    for name, each in value.items():
        path = f"{before}{name}".replace("_", " ")
        if isinstance(each, dict):
            found += _flat(each, f"{path}: ")
        elif not isinstance(each, list):
            found.append((path, each))
    return found


def _table(name: str, rows: list[Any]) -> Grid | None:
    shown = [dict(_flat(row)) for row in rows[:MOST_ROWS] if isinstance(row, dict)]
    columns = list(dict.fromkeys(column for row in shown for column in row))
    if not columns:
        return None
    cells = [[_cell(row.get(column)) for column in columns] for row in shown]
    words = [column for column in columns if any(isinstance(row.get(column), str) for row in shown)]
    order = [*words, *(column for column in columns if column not in words)]
    places = [columns.index(column) for column in order]
    note = f"{name.replace('_', ' ')}: the first {MOST_ROWS} of {len(rows)}" if len(rows) > MOST_ROWS else ""
    return Grid(words, order[len(words) :], [[row[place] for place in places] for row in cells], note=note)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
