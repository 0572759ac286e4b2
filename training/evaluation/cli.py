"""`coronanet evaluate`."""

import dataclasses
import datetime as dt
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ...console import JsonOption, emit_json, err, out
from ...engines.bundle import Precision
from ...engines.open import Backend
from ...engines.places import ROOT, data_home
from ...engines.predictor import Choice
from ...model.errors import UsageError
from .ledger import Row, append, default_ledger, read_ledger
from .results import NOT_A_DEVICE, write_page

if TYPE_CHECKING:
    from .subjects import Subject

PRETRAINED = ROOT / "model" / "pretrained"


def register(app: typer.Typer) -> None:
    app.command("evaluate")(evaluate_verb)


def evaluate_verb(
    what: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Folders of weights, bundles or prediction maps; `shortcuts` is the baseline of UCSD COVID-CT that "
            "sees borders and formats alone. None: the weights that ship."
        ),
    ] = None,
    *,
    task: Annotated[str | None, typer.Option(help="What a folder of maps shows, e.g. binary_segmentation.")] = None,
    label: Annotated[str | None, typer.Option(help="The one lesion type that maps show, e.g. ground_glass.")] = None,
    backend: Annotated[Backend | None, typer.Option(help="What runs a bundle: onnxruntime if not said.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="In which precision: fp32 if not said.")] = None,
    final: Annotated[
        bool, typer.Option("--final", help="Score the test splits too, and write every score into the test ledger.")
    ] = False,
    views: Annotated[
        bool, typer.Option("--views", help="Also turned by quarter turns, with another window, cropped to the lungs.")
    ] = False,
    ledger: Annotated[
        Path | None, typer.Option(help="The test ledger, if not docs/test-ledger.csv of the checkout.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write this page of results from the ledger; alone, nothing is scored.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Score weights, bundles or prediction maps on slices held back from training; with --final on the test splits.

    Bootstrap intervals of 95 % stand behind every score. Research software, not a medical device.
    """
    book = ledger or default_ledger() if final or page else None
    # Before anything is scored: a score on a test split that cannot be written down must not be taken.
    if book is not None:
        read_ledger(book)
    rows: list[Row] = []
    if page is None or what or final:
        choice = Choice(backend or "onnxruntime", precision or "fp32") if backend or precision else None
        asked = Asked(tuple(what or ()), task, label, choice, final=final, views=views)
        rows = _score(asked, data=data, book=book if final else None)
    if page is not None and book is not None:
        write_page(page, read_ledger(book), PRETRAINED)
    if as_json:
        written = str(book) if final else None
        emit_json(
            {
                "final": final,
                "ledger": written,
                "page": None if page is None else str(page),
                "rows": [dataclasses.asdict(row) for row in rows],
                "note": NOT_A_DEVICE,
            }
        )
        return
    for table in tables(rows):
        out.print(table)
    if final:
        err.print(f"{len(rows)} rows added to {book}")
    if page is not None:
        err.print(f"wrote {page}")
    err.print(NOT_A_DEVICE, soft_wrap=True)


@dataclass(frozen=True)
class Asked:
    """What a person asked to be scored, and how."""

    what: tuple[Path, ...] = ()
    task: str | None = None
    label: str | None = None
    choice: Choice | None = None
    final: bool = False
    views: bool = False

    @property
    def command(self) -> str:
        """The command that gives these scores again."""
        given = {"--task": self.task, "--label": self.label}
        if self.choice is not None:
            given |= {"--backend": self.choice.backend, "--precision": self.choice.precision}
        options = [part for name, value in given.items() if value is not None for part in (name, value)]
        flags = [name for name, on in (("--views", self.views), ("--final", self.final)) if on]
        return shlex.join(["coronanet", "evaluate", *map(str, self.what), *options, *flags])


def _score(asked: Asked, *, data: Path | None, book: Path | None) -> list[Row]:
    """Every subject's scores, each subject's written down before the next is begun."""
    from .evaluate import evaluate, evaluate_study, sets_for, to_rows
    from .sets import HeldBack, studies
    from .views import VIEWS

    home = data_home(data)
    if home is None:
        raise UsageError("scoring needs data: pass --data DIR or set CORONANET_DATA (README, Training)")
    subjects = _subjects(asked, home)
    held_back, volumes = HeldBack(home), list(studies(home))
    rows: list[Row] = []
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err
    ) as bars:

        def progress(title: str, count: int) -> Callable[[], None]:
            bar = bars.add_task(title, total=count)
            return lambda: bars.advance(bar)

        for subject in subjects:
            sets = sets_for(subject, held_back, home, final=asked.final)
            results = evaluate(subject, sets, VIEWS if asked.views else (), progress=progress)
            if subject.takes_views and subject.task in ("classification", "binary_segmentation"):
                lungs = _lungs(subjects)
                results += [result for volume in volumes for result in evaluate_study(subject, volume, lungs)]
            scored = to_rows(subject, results, asked.command, dt.datetime.now(dt.UTC))
            if book is not None:
                append(book, scored)
            rows += scored
    return rows


def _subjects(asked: Asked, home: Path) -> "list[Subject]":
    from .baseline import SHORTCUTS, shortcut_subject
    from .subjects import find_subjects

    subjects: list[Subject] = []
    for path in asked.what or (PRETRAINED,):
        if str(path) == SHORTCUTS:
            subjects.append(shortcut_subject(home, final=asked.final))
        else:
            subjects += find_subjects(path, task=asked.task, label=asked.label, choice=asked.choice)
    return subjects


def _lungs(subjects: "Sequence[Subject]") -> "Subject":
    """The lungs that lesions of a whole study are counted in: of the network given, else of the one that ships."""
    from .subjects import find_subjects

    given = [subject for subject in subjects if subject.task == "lung_segmentation" and subject.takes_views]
    return given[0] if given else find_subjects(PRETRAINED / "lung_segmentation")[0]


def tables(rows: Sequence[Row]) -> list[Table]:
    """One table for each run of rows that have the same scores."""
    found: list[Table] = []
    for names, group in groupby(rows, key=lambda row: tuple(row.scores)):
        table = Table("what", "set", "label", "view", "images", *(name.replace("_", " ") for name in names))
        for row in group:
            shown = [_shown(row, name) for name in names]
            table.add_row(f"{row.name} {row.runs_on}".strip(), row.set, row.label, row.view, str(row.images), *shown)
        found.append(table)
    return found


def _shown(row: Row, name: str) -> str:
    value = f"{row.scores[name]:.3f}"
    if name not in row.intervals:
        return value
    low, high = row.intervals[name]
    return f"{value} ({low:.2f}-{high:.2f})"
