"""`coronanet bench serving`: the verb."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from ..console import JsonOption, err, fail, out, warn
from ..engines.base import Engine
from ..engines.bundle import Bundle
from ..engines.predictor import Choice
from ..model.errors import MissingPackageError, UsageError
from ..model.tasks import TaskName
from .options import FAILED, BundlesOption, OutOption, footer, numbers, progress_bar, provide, publish

ENSEMBLE = "coronanet"


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
    streams = numbers("--concurrency", concurrency)
    targets = served_targets(server, _client(server, model, timeout), model, streams, batch=batch)
    opened: Mapping[TaskName, Bundle] = {}
    if in_process:
        opened = provide(ctx)(bundles)
        targets += in_process_targets(opened, _choose(opened), batch=batch)
    plan = LoadPlan(requests, max_seconds)
    with progress_bar(len(targets) + plan.rounds) as advance:
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
    publish(report, out_file, as_json, failure)
    for note in serving_notes(report):
        warn(note)
    if not as_json:
        out.print(serving_table(report))
        for line in ratio_lines(report):
            out.print(line, soft_wrap=True)
        footer(report, out_file)
    if failure:
        # Not raised as an error: with --json that would print a second object.
        fail(failure)
        raise typer.Exit(FAILED)


def _choose(bundles: Mapping[TaskName, Bundle]) -> Mapping[TaskName, Choice]:
    from ..engines.ranking import choose

    return choose(bundles, progress=lambda name: err.print(f"measuring the engines for {name}, once on this machine"))


def _client(address: str, model: str, timeout_s: float) -> Callable[[], Engine]:
    if importlib.util.find_spec("tritonclient") is None:
        raise MissingPackageError("tritonclient", purpose="bench serving", extra="serve")
    from ..engines.triton_engine import TritonEngine

    return lambda: TritonEngine(address, model=model, timeout_s=timeout_s)
