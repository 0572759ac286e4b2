"""`coronanet bench serving`: the verb."""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from ..console import JsonOption, err, fail, out, warn
from ..engines.base import Engine
from ..engines.bundle import Bundle
from ..engines.predictor import Choice
from ..model.errors import MissingPackageError, UsageError
from ..model.tasks import ENSEMBLE, TaskName
from .options import FAILED, BundlesOption, CsvOption, OutOption, footer, numbers, progress_bar, provide, publish

if TYPE_CHECKING:
    from .bench_serving import LoadTarget
    from .serving_report import Percentile

#: `--model all`: the ensemble and every step of it.
EVERY = "all"
AUTO: Final = "auto"
PERCENTILES: Mapping[str, "Percentile"] = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}

ServerOption = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="gRPC address of a running `coronanet serve`.")
]
TimeoutOption = Annotated[float, typer.Option(min=0.1, help="Deadline of a request, in seconds.")]


def serving(
    ctx: typer.Context,
    *,
    server: ServerOption = None,
    model: Annotated[
        str, typer.Option(help="The ensemble, or steps of it, comma-separated; `all` for it and every step.")
    ] = ENSEMBLE,
    concurrency: Annotated[str, typer.Option(help="Streams that ask at once, comma-separated.")] = "1,2,4",
    requests: Annotated[int, typer.Option(min=1, help="Requests to each target of a closed loop, at least.")] = 100,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="What all closed loops together may take.")] = 120.0,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATES | auto",
            help="Also send so many requests a second, comma-separated, at random times whatever comes back; `auto` "
            "takes shares of what the closed loops came to, and looks for the highest rate within --budget-ms.",
        ),
    ] = None,
    rate_seconds: Annotated[float, typer.Option(min=0.1, help="How long each rate is sent for.")] = 15.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the times at which requests of a rate leave.")] = 0,
    budget_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Report the largest throughput with answers within so long.")
    ] = None,
    percentile: Annotated[
        Literal["p50", "p90", "p95", "p99"], typer.Option(help="How many of the answers the budget is for.")
    ] = "p99",
    batch: Annotated[int, typer.Option(min=1, help="Slices a request.")] = 1,
    timeout: TimeoutOption = 30.0,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Measure the same chain in this process too, in the same run.")
    ] = False,
    perf_analyzer: Annotated[
        str | None,
        typer.Option(
            metavar="FILE | auto", help="Let NVIDIA's program ask too, in the same run; `auto` finds it on PATH."
        ),
    ] = None,
    bundles: BundlesOption = None,
    out_file: OutOption = None,
    csv_file: CsvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a running server under load, alone or against the same chain in this process.

    A closed loop keeps a number of streams busy; an open loop (--rate) sends when a schedule says so and counts
    latency from then. The input is the synthetic phantom at 512 x 512. Exit code 1 when a request failed.
    """
    from .bench_rates import count_rates
    from .bench_serving import in_process_targets, measure_serving
    from .inputs import phantom_slices
    from .load import Arrivals, LoadPlan
    from .serving_report import Budget
    from .serving_tables import limit_lines, rates_table, ratio_lines, serving_notes, serving_table
    from .timing import WarmUpRule

    address = need_server(server, "serving")
    rates = _rates(rate)
    models = _models(address, model, timeout)
    if in_process and models != [ENSEMBLE]:
        raise UsageError(f"--in-process measures the whole chain: expected --model {ENSEMBLE}, got {model}")
    streams = numbers("--concurrency", concurrency)
    program = _program(perf_analyzer)
    targets = [
        target
        for name in models
        for target in _targets(address, _client(address, name, timeout), name, streams, batch=batch, program=program)
    ]
    opened: Mapping[TaskName, Bundle] = {}
    if in_process:
        opened = provide(ctx)(bundles)
        targets += in_process_targets(opened, choose_engines(opened), batch=batch)
    plan = LoadPlan(requests, max_seconds, arrivals=Arrivals(rate_seconds, seed) if rates else None)
    budget = None if budget_ms is None else Budget(latency_ms=budget_ms, percentile=PERCENTILES[percentile])
    steps = len(targets) + plan.rounds * (1 + len(models) * count_rates(rates, budget))
    with progress_bar(steps) as advance:
        report = measure_serving(
            targets,
            phantom_slices(),
            batch=batch,
            bundles=opened,
            plan=plan,
            rule=WarmUpRule(limit_s=min(5.0, max_seconds / len(targets))),
            rates=rates,
            budget=budget,
            advance=advance,
        )
    failed = sum(sum(result.errors.values()) for result in (*report.results, *report.rates))
    failure = f"{failed} requests failed: the log of `coronanet serve` says why" if failed else None
    publish(report, out_file, as_json, failure, csv_file)
    for note in serving_notes(report):
        warn(note)
    if not as_json:
        out.print(serving_table(report))
        if report.rates:
            out.print(rates_table(report))
        for line in (*limit_lines(report), *ratio_lines(report)):
            out.print(line, soft_wrap=True)
        footer(report, out_file)
    if failure:
        # Not raised as an error: with --json that would print a second object.
        fail(failure)
        raise typer.Exit(FAILED)


def need_server(server: str | None, verb: str) -> str:
    """The address that was given.

    Raises:
        UsageError: none was.
        MissingPackageError: the client is not installed.
    """
    if server is None:
        raise UsageError(
            f"bench {verb} measures a server that runs: start one with `coronanet serve`, "
            "then pass --server 127.0.0.1:8001"
        )
    if importlib.util.find_spec("tritonclient") is None:
        raise MissingPackageError("tritonclient", purpose=f"bench {verb}", extra="serve")
    return server


def choose_engines(bundles: Mapping[TaskName, Bundle]) -> Mapping[TaskName, Choice]:
    from ..engines.ranking import choose

    return choose(bundles, progress=lambda name: err.print(f"measuring the engines for {name}, once on this machine"))


def _rates(text: str | None) -> "Sequence[float] | Literal['auto']":
    if text is None:
        return ()
    if text.strip() == AUTO:
        return AUTO
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < float("inf") for rate in rates):
        raise UsageError(f"--rate: expected requests a second above 0, like 5,10,20, or auto, got {text or 'none'}")
    return list(dict.fromkeys(rates))


def _models(address: str, text: str, timeout_s: float) -> list[str]:
    """The models that are asked for, each once."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UsageError(f"--model: expected {ENSEMBLE}, steps of it or {EVERY}, got none")
    if names != [EVERY]:
        return names
    from .triton_admin import TritonAdmin

    with TritonAdmin(address, timeout_s=timeout_s) as admin:
        return [ENSEMBLE, *admin.steps(ENSEMBLE)]


def _program(given: str | None) -> Path | None:
    from .perf_analyzer import find_perf_analyzer

    return find_perf_analyzer(None if given == AUTO else Path(given)) if given else None


def _targets(
    address: str, client: Callable[[], Engine], model: str, streams: Sequence[int], *, batch: int, program: Path | None
) -> "list[LoadTarget]":
    from .bench_serving import analyzer_targets, served_targets

    targets = served_targets(address, client, model, streams, batch=batch)
    return [*targets, *analyzer_targets(program, targets)] if program else targets


def _client(address: str, model: str, timeout_s: float) -> Callable[[], Engine]:
    from ..engines.triton_engine import TritonEngine

    return lambda: TritonEngine(address, model=model, timeout_s=timeout_s)
