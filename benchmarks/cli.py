"""`coronanet bench`: how fast, on this machine, alone and served, and can the number be believed."""

from pathlib import Path
from typing import Annotated

import typer

from ..console import JsonOption, emit_json, out
from .compare_cli import compare
from .engines_cli import engines
from .options import footer
from .page.cli import report
from .serving_cli import serving
from .study_cli import study
from .triage_cli import triage
from .untrained_cli import untrained
from .waterfall_cli import waterfall


def register(app: typer.Typer) -> None:
    """Add `bench` and its verbs."""
    bench = typer.Typer(
        help="Measure engines and the server; every report keeps its raw samples and its protocol.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    bench.command()(engines)
    bench.command()(serving)
    bench.command()(compare)
    bench.command()(waterfall)
    bench.command()(study)
    bench.command()(table)
    bench.command()(report)
    bench.command()(triage)
    bench.command()(untrained)
    app.add_typer(bench, name="bench")


def table(
    engines_report: Annotated[Path, typer.Argument(metavar="ENGINES.json", help="From `bench engines --out`.")],
    serving_report: Annotated[
        Path | None, typer.Argument(metavar="[SERVING.json]", help="From `bench serving --out`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print one table of what was measured: model, precision, engine, size, parity, latency, throughput."""
    from .report import read_engines
    from .serving_report import read_serving
    from .serving_tables import ratio_lines
    from .tables import summary_table

    networks = read_engines(engines_report)
    ensemble = read_serving(serving_report) if serving_report else None
    if as_json:
        emit_json(
            {
                "engines": networks.model_dump(mode="json"),
                "serving": ensemble.model_dump(mode="json") if ensemble else None,
            }
        )
        return
    out.print(summary_table(networks, ensemble))
    for line in ratio_lines(ensemble) if ensemble else []:
        out.print(line, soft_wrap=True)
    footer(networks, None)
