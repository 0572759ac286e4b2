"""`coronanet bench`: how fast, on this machine, alone and served, and can the number be believed."""

import importlib.util
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, get_args

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..console import JsonOption, emit_json, err, fail, out, warn
from ..engines.base import Engine
from ..engines.bundle import Bundle, Precision
from ..engines.open import BACKENDS
from ..engines.places import BundleProvider
from ..engines.predictor import Choice
from ..model.errors import MissingPackageError, UsageError
from ..model.tasks import TASK_NAMES, TaskName
from .triage_cli import triage

if TYPE_CHECKING:
    from .report import EngineReport, ServingReport

ENSEMBLE = "coronanet"
#: A verdict is no: a request failed.
FAILED = 1
Name = TypeVar("Name", bound=str)
PRECISION_NAMES: tuple[Precision, ...] = get_args(Precision)

BundlesOption = Annotated[
    Path | None, typer.Option("--bundles", help="Folder of the bundles; the user's cache unless given.")
]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Write the report with every raw sample to this JSON file.")
]


def register(app: typer.Typer) -> None:
    """Add `bench` and its verbs."""
    bench = typer.Typer(
        help="Measure engines and the server; every report keeps its raw samples and its protocol.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    bench.command()(engines)
    bench.command()(serving)
    bench.command()(table)
    bench.command()(triage)
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

    tasks = _names("--task", task, TASK_NAMES)
    choices = candidates(
        _names("--backend", backend, BACKENDS), _names("--precision", precision, PRECISION_NAMES), threads
    )
    batches = _numbers("--batch", batch)
    opened: dict[TaskName, Bundle] = {name: bundle for name, bundle in _provide(ctx)(bundles).items() if name in tasks}
    rankings: dict[TaskName, Ranking] = {
        name: ranking for name, bundle in opened.items() if (ranking := read_ranking(bundle))
    }
    with _progress(len(opened) * len(batches)) as advance:
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
    _publish(report, out_file, as_json)
    for note in engine_notes(report):
        warn(note)
    if not as_json:
        out.print(engines_table(report))
        _footer(report, out_file)


def serving(
    ctx: typer.Context,
    *,
    server: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="gRPC address of a running `coronanet serve`.")
    ] = None,
    model: Annotated[str, typer.Option(help="The ensemble, or one step of it.")] = ENSEMBLE,
    concurrency: Annotated[str, typer.Option(help="Streams that ask at once, comma-separated.")] = "1,2,4",
    requests: Annotated[int, typer.Option(min=1, help="Requests to each target, at least.")] = 100,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="What all bursts together may take.")] = 120.0,
    batch: Annotated[int, typer.Option(min=1, help="Slices a request.")] = 1,
    timeout: Annotated[float, typer.Option(min=0.1, help="Deadline of a request, in seconds.")] = 30.0,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Measure the same chain in this process too, in the same run.")
    ] = False,
    bundles: BundlesOption = None,
    out_file: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a running server under closed-loop load, alone or against the same chain in this process.

    The input is the synthetic phantom at 512 x 512. Exit code 1 when a request failed.
    """
    from .bench_serving import in_process_targets, measure_serving, served_targets
    from .inputs import phantom_slices
    from .load import LoadPlan
    from .tables import ratio_lines, serving_notes, serving_table
    from .timing import WarmUpRule

    if server is None:
        raise UsageError(
            "bench serving measures a server that runs: start one with `coronanet serve`, "
            "then pass --server 127.0.0.1:8001"
        )
    if in_process and model != ENSEMBLE:
        raise UsageError(f"--in-process measures the whole chain: expected --model {ENSEMBLE}, got {model}")
    streams = _numbers("--concurrency", concurrency)
    targets = served_targets(server, _client(server, model, timeout), model, streams, batch=batch)
    opened: Mapping[TaskName, Bundle] = {}
    if in_process:
        opened = _provide(ctx)(bundles)
        targets += in_process_targets(opened, _choose(opened), batch=batch)
    plan = LoadPlan(requests, max_seconds)
    with _progress(len(targets) + plan.rounds) as advance:
        report = measure_serving(
            targets,
            phantom_slices(),
            batch=batch,
            bundles=opened,
            plan=plan,
            rule=WarmUpRule(limit_s=min(5.0, max_seconds / len(targets))),
            advance=advance,
        )
    failed = sum(sum(result.errors.values()) for result in report.results)
    failure = f"{failed} requests failed: the log of `coronanet serve` says why" if failed else None
    _publish(report, out_file, as_json, failure)
    for note in serving_notes(report):
        warn(note)
    if not as_json:
        out.print(serving_table(report))
        for line in ratio_lines(report):
            out.print(line, soft_wrap=True)
        _footer(report, out_file)
    if failure:
        # Not raised as an error: with --json that would print a second object.
        fail(failure)
        raise typer.Exit(FAILED)


def table(
    engines_report: Annotated[Path, typer.Argument(metavar="ENGINES.json", help="From `bench engines --out`.")],
    serving_report: Annotated[
        Path | None, typer.Argument(metavar="[SERVING.json]", help="From `bench serving --out`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print one table of what was measured: model, precision, engine, size, parity, latency, throughput."""
    from .report import read_engines, read_serving
    from .tables import ratio_lines, summary_table

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
    _footer(networks, None)


def _provide(ctx: typer.Context) -> BundleProvider:
    provide: BundleProvider = ctx.obj
    return provide


def _choose(bundles: Mapping[TaskName, Bundle]) -> Mapping[TaskName, Choice]:
    from ..engines.ranking import choose

    return choose(bundles, progress=lambda name: err.print(f"measuring the engines for {name}, once on this machine"))


def _client(address: str, model: str, timeout_s: float) -> Callable[[], Engine]:
    if importlib.util.find_spec("tritonclient") is None:
        raise MissingPackageError("tritonclient", purpose="bench serving", extra="serve")
    from ..engines.triton_engine import TritonEngine

    return lambda: TritonEngine(address, model=model, timeout_s=timeout_s)


def _names(option: str, text: str, known: Sequence[Name]) -> list[Name]:
    """The names of a comma-separated option, in the order of ``known``."""
    asked = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in asked if name not in known]
    if unknown or not asked:
        raise UsageError(f"{option}: expected one or more of {', '.join(known)}, got {unknown[0] if asked else 'none'}")
    return [name for name in known if name in asked]


def _numbers(option: str, text: str) -> list[int]:
    """The positive whole numbers of a comma-separated option, each once, as given."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"{option}: expected whole numbers from 1, like 1,2,4, got {text or 'none'}")
    return list(dict.fromkeys(int(part) for part in parts))


@contextmanager
def _progress(steps: int) -> Generator[Callable[[str], None]]:
    """A bar on stderr; calling it names the step that begins, and counts the one before it as done."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("opening", total=steps + 1)

        def advance(what: str) -> None:
            progress.update(bar, description=what, advance=1)

        yield advance


def _publish(
    report: "EngineReport | ServingReport", file: Path | None, as_json: bool, failure: str | None = None
) -> None:
    """Write the report and print it; a failure is named in what is printed, the file stays a report."""
    from .report import write_text

    if file is not None:
        write_text(file, report.to_json())
    if as_json:
        verdict = {"error": failure, "exit_code": FAILED} if failure else {}
        emit_json({**report.model_dump(mode="json"), **verdict})


def _footer(report: "EngineReport | ServingReport", file: Path | None) -> None:
    from .tables import machine_line

    out.print(machine_line(report), soft_wrap=True)
    out.print(report.notice, soft_wrap=True)
    if file is not None:
        err.print(f"written: {file}", soft_wrap=True)
