"""`coronanet bench serving`: the verb."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

from ..console import JsonOption, err, fail, out, warn
from ..engines.base import Engine
from ..engines.bundle import Bundle
from ..engines.connection_cli import (
    ServerKeyOption,
    ServerOption,
    TlsCertificateOption,
    TlsKeyOption,
    TlsOption,
    TlsRootOption,
    load_connection,
)
from ..engines.predictor import Choice
from ..model.errors import UsageError
from ..model.tasks import ENSEMBLE, TaskName
from .options import FAILED, BundlesOption, CsvOption, OutOption, footer, numbers, progress_bar, provide, publish

if TYPE_CHECKING:
    from ..engines.triton_connection import Connection
    from .bench_serving import LoadTarget
    from .serving_report import Percentile

#: `--model all`: the ensemble and every step of it.
EVERY = "all"
AUTO: Final = "auto"
PERCENTILES: Mapping[str, "Percentile"] = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}

TimeoutOption = Annotated[float, typer.Option(min=0.1, help="Deadline of a request, in seconds.")]


def serving(
    ctx: typer.Context,
    *,
    server: ServerOption = None,
    tls: TlsOption = False,
    tls_root: TlsRootOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    server_key: ServerKeyOption = None,
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

    connection = need_server(
        load_connection(
            server, tls=tls, tls_root=tls_root, tls_certificate=tls_certificate, tls_key=tls_key, server_key=server_key
        ),
        "serving",
    )
    rates = _rates(rate)
    models = _models(connection, model, timeout)
    if in_process and models != [ENSEMBLE]:
        raise UsageError(f"--in-process measures the whole chain: expected --model {ENSEMBLE}, got {model}")
    streams = numbers("--concurrency", concurrency)
    program = _program(perf_analyzer, connection)
    targets = [
        target
        for name in models
        for target in _targets(connection, name, streams, batch=batch, timeout_s=timeout, program=program)
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


def need_server(connection: "Connection | None", verb: str) -> "Connection":
    """The server that was given.

    Raises:
        UsageError: none was.
    """
    if connection is None:
        raise UsageError(
            f"bench {verb} measures a server that runs: start one with `coronanet serve`, "
            "then pass --server 127.0.0.1:8001"
        )
    return connection


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


def _models(connection: "Connection", text: str, timeout_s: float) -> list[str]:
    """The models that are asked for, each once."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise UsageError(f"--model: expected {ENSEMBLE}, steps of it or {EVERY}, got none")
    if names != [EVERY]:
        return names
    from .triton_admin import TritonAdmin

    with TritonAdmin(connection, timeout_s=timeout_s) as admin:
        return [ENSEMBLE, *admin.steps(ENSEMBLE)]


def _program(given: str | None, connection: "Connection") -> Path | None:
    from .perf_analyzer import find_perf_analyzer

    if given and (connection.tls or connection.keys):
        raise UsageError(
            "--perf-analyzer asks without TLS and keys, which would stand on its command line: leave it out"
        )
    return find_perf_analyzer(None if given == AUTO else Path(given)) if given else None


def _targets(
    connection: "Connection",
    model: str,
    streams: Sequence[int],
    *,
    batch: int,
    timeout_s: float,
    program: Path | None,
) -> "list[LoadTarget]":
    from ..engines.triton_engine import TritonEngine
    from .bench_serving import analyzer_targets, served_targets

    def client() -> Engine:
        return TritonEngine(connection, model=model, timeout_s=timeout_s)

    targets = served_targets(connection.address, client, model, streams, batch=batch)
    return [*targets, *analyzer_targets(program, targets)] if program else targets
