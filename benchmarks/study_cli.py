"""`coronanet bench study`."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from ..console import JsonOption, err, out, warn
from ..model.errors import UsageError
from .options import BundlesOption, OutOption, footer, progress_bar, provide, publish
from .study_files import FORMATS, make_study, write_study


def study(
    ctx: typer.Context,
    *,
    path: Annotated[
        Path | None, typer.Argument(metavar="[INPUT]", help="A study of your own; else the phantom is written.")
    ] = None,
    slices: Annotated[int, typer.Option(min=1, max=4096, help="Slices of the phantom, 512 x 512 each.")] = 300,
    kind: Annotated[str, typer.Option("--as", help=f"The phantom as {' or '.join(FORMATS)}.")] = "dicom",
    repeats: Annotated[int, typer.Option(min=1, help="Runs of the study, each in a process of its own.")] = 3,
    bundles: BundlesOption = None,
    out_file: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure `coronanet predict` on a whole study: read, decode, infer, write, against the engine alone."""
    from ..engines.ranking import choose
    from .bench_study import measure_study
    from .study_tables import stages_table, study_lines

    if kind not in FORMATS:
        raise UsageError(f"--as: expected {' or '.join(FORMATS)}, got {kind}")
    opened = provide(ctx)(bundles)
    choices = choose(opened, progress=lambda name: err.print(f"measuring the engines for {name}, once on this machine"))
    with TemporaryDirectory(prefix="coronanet-") as work, progress_bar(repeats + 4) as advance:
        if path is None:
            advance("drawing the phantom")
            path = write_study(make_study(slices), Path(work), kind)
            source = f"synthetic phantom, {kind}"
        else:
            source = "a study of the user's own"
        report = measure_study(path, opened, choices, source=source, repeats=repeats, advance=advance)
    publish(report, out_file, as_json)
    for warning in report.protocol.moment.warnings:
        warn(warning)
    if not as_json:
        out.print(stages_table(report))
        for line in study_lines(report):
            out.print(line, soft_wrap=True)
        footer(report, out_file)
