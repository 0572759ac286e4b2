"""What the verbs of `coronanet bench` share: options, how lists are written, the bar, and how a report leaves."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..console import emit_json, err, out
from ..engines.places import BundleProvider
from ..model.errors import UsageError

if TYPE_CHECKING:
    from .report import Report

#: A verdict is no: a request failed.
FAILED = 1
Name = TypeVar("Name", bound=str)

BundlesOption = Annotated[
    Path | None, typer.Option("--bundles", help="Folder of the bundles; the user's cache unless given.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write the report with every raw sample to this JSON file.")
]
CsvOption = Annotated[Path | None, typer.Option("--csv", help="Write a line of statistics a result to this CSV file.")]


def provide(ctx: typer.Context) -> BundleProvider:
    given: BundleProvider = ctx.obj
    return given


def names(option: str, text: str, known: Sequence[Name]) -> list[Name]:
    """The names of a comma-separated option, in the order of ``known``."""
    asked = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise UsageError(f"{option}: expected one or more of {', '.join(known)}, got {unknown[0] if asked else 'none'}")
    return [name for name in known if name in asked]


def numbers(option: str, text: str) -> list[int]:
    """The positive whole numbers of a comma-separated option, each once, as given."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option}: expected whole numbers from 1, like 1,2,4, got {text or 'none'}")
    return list(dict.fromkeys(int(part) for part in parts))


@contextmanager
def progress_bar(steps: int) -> Generator[Callable[[str], None]]:
    """A bar on stderr; calling it names the step that begins, and counts the one before it as done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        bar = shown.add_task("opening", total=steps + 1)

        def advance(what: str) -> None:
            shown.update(bar, description=what, advance=1)

        yield advance


def publish(
    report: "Report", file: Path | None, as_json: bool, failure: str | None = None, csv_file: Path | None = None
) -> None:
    """Write the report and print it; a failure is named in what is printed, the file stays a report."""
    from .report import write_text
    from .spreadsheet import to_csv

    if file is not None:
        write_text(file, report.to_json())
    if csv_file is not None:
        write_text(csv_file, to_csv([report]), option="--csv")
    if as_json:
        verdict = {"error": failure, "exit_code": FAILED} if failure else {}
        emit_json({**report.model_dump(mode="json"), **verdict})


def footer(report: "Report", file: Path | None) -> None:
    from .tables import machine_line

    out.print(machine_line(report), soft_wrap=True)
    out.print(report.notice, soft_wrap=True)
    if file is not None:
        err.print(f"written: {file}", soft_wrap=True)
