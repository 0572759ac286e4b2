"""`coronanet bench waterfall`: the verb."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from ..console import JsonOption, fail, out, warn
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
from ..model.tasks import ENSEMBLE, TaskName
from .options import FAILED, BundlesOption, CsvOption, OutOption, footer, numbers, progress_bar, provide, publish
from .serving_cli import TimeoutOption, choose_engines, need_server


def waterfall(
    ctx: typer.Context,
    *,
    server: ServerOption = None,
    tls: TlsOption = False,
    tls_root: TlsRootOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    server_key: ServerKeyOption = None,
    model: Annotated[str, typer.Option(help="The ensemble, or one step of it.")] = ENSEMBLE,
    concurrency: Annotated[str, typer.Option(help="Streams that ask at once, comma-separated.")] = "1,4",
    requests: Annotated[int, typer.Option(min=1, help="Requests that are taken apart at each, at least.")] = 100,
    max_seconds: Annotated[float, typer.Option(min=0.1, help="What each concurrency may take.")] = 60.0,
    batch: Annotated[int, typer.Option(min=1, help="Slices a request.")] = 1,
    timeout: TimeoutOption = 30.0,
    in_process: Annotated[
        bool,
        typer.Option("--in-process/--served-only", help="Measure the same chain in this process too: the Triton tax."),
    ] = True,
    trace_file: Annotated[
        Path | None,
        typer.Option(
            "--trace-file", help="Where the server's trace file is seen from here, without the number behind it."
        ),
    ] = None,
    bundles: BundlesOption = None,
    out_file: OutOption = None,
    csv_file: CsvOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a request to a running server apart: client, wire, queue, every step, answer.

    The server needs a trace: `coronanet serve --trace FILE`. Its time stamps and counters are held against this
    client's clock; exit code 1 when the parts do not add up to what the client saw within 5 %, or a request failed.
    """
    from .bench_serving import in_process_targets
    from .bench_waterfall import measure_waterfall
    from .inputs import phantom_slices
    from .load import LoadPlan
    from .timing import WarmUpRule
    from .waterfall_tables import parts_table, steps_table, waterfall_lines, waterfall_notes

    connection = need_server(
        load_connection(
            server, tls=tls, tls_root=tls_root, tls_certificate=tls_certificate, tls_key=tls_key, server_key=server_key
        ),
        "waterfall",
    )
    streams = numbers("--concurrency", concurrency)
    opened: Mapping[TaskName, Bundle] = provide(ctx)(bundles) if in_process and model == ENSEMBLE else {}
    with progress_bar(len(streams)) as advance:
        report = measure_waterfall(
            connection,
            streams,
            phantom_slices(),
            model=model,
            batch=batch,
            local=in_process_targets(opened, choose_engines(opened), batch=batch) if opened else (),
            bundles=opened,
            plan=LoadPlan(requests, max_seconds),
            rule=WarmUpRule(limit_s=min(5.0, max_seconds / 4)),
            timeout_s=timeout,
            trace_file=trace_file,
            advance=advance,
        )
    apart = [str(each.case.concurrency) for each in report.results if not each.reconciliation.adds_up]
    failed = sum(sum(each.errors.values()) for each in report.results)
    whys = (
        f"the parts do not add up at concurrency {', '.join(apart)}" if apart else "",
        f"{failed} requests failed: the log of `coronanet serve` says why" if failed else "",
    )
    failure = "; ".join(filter(None, whys)) or None
    publish(report, out_file, as_json, failure, csv_file)
    for note in waterfall_notes(report):
        warn(note)
    if not as_json:
        out.print(parts_table(report))
        for result in report.results:
            out.print(steps_table(result))
        for line in waterfall_lines(report):
            out.print(line, soft_wrap=True)
        footer(report, out_file)
    if failure:
        fail(failure)
        raise typer.Exit(FAILED)
