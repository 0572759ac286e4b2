"""`coronanet bench compare`: two reports, case by case."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..console import JsonOption, emit_json, err, out, warn
from ..model.errors import UsageError
from .report import EngineReport, read_bytes, read_engines, write_text
from .serving_report import ServingReport, read_serving

VaryOption = Annotated[
    list[str] | None,
    typer.Option("--vary", help="A field of the protocol that may differ, since it is what you compare; repeatable."),
]


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="From `bench engines` or `bench serving --out`.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="Another of the same kind.")],
    *,
    vary: VaryOption = None,
    out_file: Annotated[Path | None, typer.Option("--out", help="Write the comparison to this JSON file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether B is faster or slower than A, or whether the difference is noise.

    Two reports are compared only where they are the same measurement: exit code 2 where a field of their protocols
    differs that --vary does not name, such as --vary software.source or --vary software.packages.openvino.
    """
    from .compare import compare as compare_reports
    from .tables import comparison_notes, comparisons_table

    report = compare_reports(read_report(a), read_report(b), vary or ())
    if out_file is not None:
        write_text(out_file, report.to_json())
    for note in comparison_notes(report):
        warn(note)
    if as_json:
        emit_json(report.model_dump(mode="json"))
        return
    out.print(comparisons_table(report.comparisons))
    out.print(report.notice, soft_wrap=True)
    if out_file is not None:
        err.print(f"written: {out_file}", soft_wrap=True)


def read_report(path: Path) -> EngineReport | ServingReport:
    """A report of whichever verb wrote it.

    Raises:
        UsageError: no such file, or no report that can be compared.
    """
    try:
        verb = json.loads(read_bytes(path, "engines"))["protocol"]["method"]["verb"]
    except (ValueError, KeyError, TypeError):
        verb = None
    match verb:
        case "bench engines":
            return read_engines(path)
        case "bench serving":
            return read_serving(path)
        case _:
            raise UsageError(f"{path} is no report of `coronanet bench engines` or `coronanet bench serving`")
