"""The test ledger: one row for every score that was ever taken on a ``test/`` split, and beside it what else is told.

A CSV file that only grows. Only numbers that stand there are published.
"""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from ...engines.places import ROOT
from ...model.errors import UsageError
from ..files import write_whole

#: The sets whose every score is written here.
MEDSEG_TEST, UCSD_TEST = "MedSeg test", "UCSD COVID-CT test"
#: How slices are shown where nothing is changed about them.
AS_GIVEN = "as given"
#: Of scores and of the bounds of their intervals.
DECIMALS = 4


@dataclass(frozen=True)
class Row:
    """One label of one task on one set.

    Attributes:
        date_utc: when it was scored, ISO 8601.
        sha256: of the file of weights, or of the folder of maps as ``sha256sum * | sha256sum`` gives it.
        card_sha256: of the card that decided with these weights; empty for maps.
        kind: ``weights``, ``bundle``, ``maps`` or ``baseline``.
        name: the family of the network, or the folder of the maps.
        runs_on: backend and precision; empty for maps.
        view: how the slices were shown.
        images: how many were scored; ``showing`` of them show the label in truth (None where nobody has said).
        resampled: what the intervals draw.
        scores: by name, as ``evaluation.scores`` defines them.
        intervals: the 95 % interval of each score that has one.
    """

    date_utc: str
    sha256: str
    card_sha256: str
    kind: str
    name: str
    runs_on: str
    task: str
    set: str
    label: str
    view: str
    images: int
    showing: int | None
    resampled: str
    command: str
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]


COLUMNS = tuple(field.name for field in fields(Row))


def default_ledger() -> Path:
    """``docs/test-ledger.csv`` of the checkout.

    Raises:
        UsageError: this is an installation, which has none.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise UsageError("there is no docs/test-ledger.csv beside an installation: say where with --ledger FILE")
    return ROOT / "docs" / "test-ledger.csv"


def read_ledger(path: Path) -> list[Row]:
    """The rows of a ledger, oldest first; none where there is no file yet.

    Raises:
        UsageError: the file is not a ledger; a row that cannot be read is named by its line.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, restkey="more", restval="")
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise UsageError(f"{path} is not a test ledger: expected the columns {', '.join(COLUMNS)}")
        rows: list[Row] = []
        for line in reader:
            try:
                rows.append(_parse(line))
            except (ValueError, TypeError, KeyError) as error:
                raise UsageError(f"{path}, line {reader.line_num} is damaged ({error}): restore it") from None
        return rows


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add rows at the end, all of them or none.

    Raises:
        UsageError: what stands at ``path`` is not a ledger.
    """
    write_whole(path, to_csv([*read_ledger(path), *rows]).encode())


def to_csv(rows: Sequence[Row]) -> str:
    """A ledger as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_cell(getattr(row, name)) for name in COLUMNS])
    return text.getvalue()


def _cell(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict) else value


def _parse(line: dict[str, str]) -> Row:
    if "more" in line:
        raise ValueError("too many columns")
    text = {name: line[name] for name in COLUMNS}
    scores = {str(name): float(value) for name, value in json.loads(text["scores"]).items()}
    intervals = {str(name): (float(low), float(high)) for name, (low, high) in json.loads(text["intervals"]).items()}
    return Row(
        date_utc=text["date_utc"],
        sha256=text["sha256"],
        card_sha256=text["card_sha256"],
        kind=text["kind"],
        name=text["name"],
        runs_on=text["runs_on"],
        task=text["task"],
        set=text["set"],
        label=text["label"],
        view=text["view"],
        images=int(text["images"]),
        showing=int(text["showing"]) if text["showing"] else None,
        resampled=text["resampled"],
        command=text["command"],
        scores=scores,
        intervals=intervals,
    )
