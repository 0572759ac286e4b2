"""`coronanet bench report`: the verb."""

from pathlib import Path
from typing import Annotated

import typer

from ...console import JsonOption, emit_json, err, warn
from ...model.errors import UsageError


def report(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What `bench VERB --out` wrote, of any verb.")],
    *,
    page: Annotated[
        Path | None, typer.Option("--out", help="Write one HTML page with charts that needs nothing else.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Write a line of statistics a result to this file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show measurements on one page: charts, tables, how it was measured and on what machine.

    Nothing is loaded from elsewhere and nothing runs: the page can be mailed and printed.
    """
    from ..report import ProofReport, write_text
    from ..spreadsheet import to_csv
    from .build import build_page, read_report

    if page is None and csv_file is None:
        raise UsageError("bench report writes files: pass --out page.html, --csv sheet.csv, or both")
    reports = [read_report(file) for file in files]
    if page is not None:
        write_text(page, build_page(reports))
    if csv_file is not None:
        write_text(csv_file, to_csv(reports), option="--csv")
        for file in (file for file, each in zip(files, reports, strict=True) if isinstance(each, ProofReport)):
            warn(f"{file} has comparisons alone, which the page shows: no line of {csv_file} is of it")
    written = {name: str(path) for name, path in (("page", page), ("csv", csv_file)) if path is not None}
    if as_json:
        emit_json({**written, "reports": [each.protocol.method.verb for each in reports]})
        return
    for path in written.values():
        err.print(f"written: {path}", soft_wrap=True)
