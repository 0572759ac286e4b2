"""`coronanet bench`: how fast, on this machine, alone and served, and can the number be believed."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from ..console import JsonOption, emit_json, out, warn
from ..engines.bundle import Bundle, Precision
from ..engines.open import BACKENDS
from ..model.tasks import TASK_NAMES, TaskName
from .options import BundlesOption, OutOption, footer, names, numbers, progress_bar, provide, publish
from .page.cli import report
from .serving_cli import serving
from .study_cli import study
from .waterfall_cli import waterfall

PRECISION_NAMES: tuple[Precision, ...] = get_args(Precision)


def register(app: typer.Typer) -> None:
    """Add `bench` and its verbs."""
    bench = typer.Typer(
        help="Measure engines and the server; every report keeps its raw samples and its protocol.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    bench.command()(engines)
    bench.command()(serving)
    bench.command()(waterfall)
    bench.command()(study)
    bench.command()(table)
    bench.command()(report)
    app.add_typer(bench, name="bench")


def engines(
    ctx: typer.Context,
    *,
    bundles: BundlesOption = None,
    task: Annotated[str, typer.Option(help="Tasks, comma-separated.", show_default="all")] = ",".join(TASK_NAMES),
    backend: Annotated[str, typer.Option(help="Backends, comma-separated.", show_default="all")] = ",".join(BACKENDS),
    precision: Annotated[str, typer.Option(help="Precisions, comma-separated.", show_default="all")] = ",".join(
        PRECISION_NAMES
    ),
    batch: Annotated[str, typer.Option(help="Batch sizes, comma-separated.")] = "1",
    repeats: Annotated[int, typer.Option(min=1, help="Counted calls of each engine.")] = 100,
    max_seconds: Annotated[
        float, typer.Option(min=0.1, help="No round starts after this long, for each task and batch size.")
    ] = 30.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of one inference; each backend's own choice unless given.")
    ] = None,
    out_file: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the networks alone: every backend x precision x batch that this machine runs, in turns.

    The input is the synthetic phantom at 512 x 512 through the bundle's own preprocessing.
    """
    from ..engines.ranking import Ranking, read_ranking
    from .bench_engines import candidates, measure_engines
    from .inputs import phantom_slices
    from .tables import engine_notes, engines_table
    from .timing import Plan, WarmUpRule

    tasks = names("--task", task, TASK_NAMES)
    choices = candidates(
        names("--backend", backend, BACKENDS), names("--precision", precision, PRECISION_NAMES), threads
    )
    batches = numbers("--batch", batch)
    opened: dict[TaskName, Bundle] = {name: bundle for name, bundle in provide(ctx)(bundles).items() if name in tasks}
    rankings: dict[TaskName, Ranking] = {
        name: ranking for name, bundle in opened.items() if (ranking := read_ranking(bundle))
    }
    with progress_bar(len(opened) * len(batches)) as advance:
        report = measure_engines(
            opened,
            choices,
            batches,
            phantom_slices(),
            plan=Plan(repeats, max_seconds),
            rule=WarmUpRule(limit_s=min(5.0, max_seconds / max(1, len(choices)))),
            rankings=rankings,
            advance=advance,
        )
    publish(report, out_file, as_json)
    for note in engine_notes(report):
        warn(note)
    if not as_json:
        out.print(engines_table(report))
        footer(report, out_file)


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
