"""`coronanet serve`, with `coronanet repository` and `coronanet predict` beside it."""

import shlex
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import JsonOption, emit_json, err, fail, out, warn
from ..engines.keys_cli import RequireSignatureOption, load_public_key
from ..model.errors import CoronanetError, UsageError
from ..model.tasks import ENSEMBLE
from . import predict_cli, repository_cli
from .addresses import CONTAINER_WARNING, REMOTE_WARNING, check_host, is_loopback
from .repository_cli import BundlesOption, InstancesOption, fill, home_of, missing_package, provide

if TYPE_CHECKING:
    from .server import TritonServer

#: Beside Triton's own 8000, 8001 and 8002.
DEFAULT_HEALTH_PORT = 8003


def register(app: typer.Typer) -> None:
    repository_cli.register(app)
    app.command("serve")(serve_verb)
    predict_cli.register(app)


def serve_verb(
    ctx: typer.Context,
    *,
    bundles: BundlesOption = None,
    repository: Annotated[
        Path | None, typer.Option("--repository", help="Serve this repository with what it was filled with.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="An address of this machine; loopback alone is safe.")] = (
        "127.0.0.1"
    ),
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let --host be an address that other machines can reach.")
    ] = False,
    http_port: Annotated[int, typer.Option("--http-port", min=0, max=65535, help="0: any that is free.")] = 8000,
    grpc_port: Annotated[int, typer.Option("--grpc-port", min=0, max=65535, help="0: any that is free.")] = 8001,
    metrics_port: Annotated[int, typer.Option("--metrics-port", min=0, max=65535, help="0: any that is free.")] = 8002,
    health_port: Annotated[
        int | None,
        typer.Option(
            "--health-port",
            min=0,
            max=65535,
            help="Health and metrics of the watchdog. 8003; any that is free where --metrics-port was moved.",
            show_default=False,
        ),
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", help="Triton's log; events are beside it. None: in the user's cache.")
    ] = None,
    exit_timeout_s: Annotated[
        int, typer.Option("--exit-timeout", min=1, help="Seconds that accepted requests may take to finish at the end.")
    ] = 10,
    instances: InstancesOption = 2,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            help="Let clients of this machine trace requests to this file, as `bench waterfall` does; one that asks "
            "for TENSORS has pixels written there.",
        ),
    ] = None,
    require_signature: RequireSignatureOption = None,
    container: Annotated[
        bool, typer.Option("--container", help="Start nothing: print the `docker run` that serves it on a GPU.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start the embedded Triton server, wait until the ensemble answers, watch it until Ctrl-C.

    For development and a single workstation. Research software, not a medical device.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if repository is not None and bundles is not None:
        raise UsageError("--repository serves a folder as it stands and --bundles fills one: expected one of them")
    if repository is not None and require_signature is not None:
        raise UsageError(
            "--repository serves a folder as it stands, and only bundles are signed: leave it out, or fill the folder "
            "with `coronanet repository --require-signature`"
        )
    key = load_public_key(require_signature)
    home = home_of(repository, bundles, instances)
    if container:
        check_host(host, allow_remote=allow_remote)
        if not is_loopback(host):
            warn(CONTAINER_WARNING)
        if repository is None:
            fill(provide(ctx.obj, bundles, key), home, instances)
        _print_container(home, host, (http_port, grpc_port, metrics_port), as_json)
        return
    server = _server(
        home,
        host,
        (http_port, grpc_port, metrics_port),
        log=log,
        trace=trace,
        exit_timeout_s=exit_timeout_s,
        allow_remote=allow_remote,
    )
    server.check_machine()
    if repository is None:
        fill(provide(ctx.obj, bundles, key), home, instances)
    _run(server, (DEFAULT_HEALTH_PORT if metrics_port == 8002 else 0) if health_port is None else health_port, as_json)


def _run(server: "TritonServer", health_port: int, as_json: bool) -> None:
    try:
        from .monitor import Monitor
        from .serve import serve
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    monitor = Monitor(server.host, health_port)
    if not is_loopback(server.host):
        warn(REMOTE_WARNING)
    is_ready = False
    starting = err.status(f"starting Triton; its log: {server.log}")

    def ready(events: Path) -> None:
        nonlocal is_ready
        is_ready = True
        starting.stop()
        _announce(server, monitor.address, events, as_json)

    try:
        with starting:
            serve(server, monitor, ready)
    except CoronanetError as error:
        if not (as_json and is_ready):
            raise
        # What --json promises on stdout is one object, and that was printed when the server was ready.
        fail(str(error))
        raise typer.Exit(error.exit_code) from None
    finally:
        if is_ready:
            err.print("stopped")


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal handler
    """End with exit code 0, and let nothing interrupt the clean-up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(0)


def _announce(server: "TritonServer", health: str, events: Path, as_json: bool) -> None:
    ready = {
        "grpc": server.address,
        "http": server.http_address,
        "metrics": server.metrics_address,
        "health": health,
        "model": ENSEMBLE,
        "repository": str(server.repository),
        "log": str(server.log),
        "events": str(events),
        "pid": server.pid,
    }
    if as_json:
        emit_json(ready)
    else:
        out.print(
            f"ready: model {ENSEMBLE}, gRPC {server.address}, HTTP {server.http_address}, "
            f"metrics {server.metrics_address}, health {health}; Ctrl-C stops",
            soft_wrap=True,
        )


def _print_container(home: Path, host: str, ports: tuple[int, int, int], as_json: bool) -> None:
    try:
        from .container import container_target, docker_command
        from .repository import read_index
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    index, target = read_index(home), container_target(home)
    command = docker_command(home, target, host=host, ports=ports, response_cache_mib=index.response_cache_mib)
    if target == "onnxruntime":
        err.print("not every network has a TensorRT plan: all of them run on ONNX Runtime", soft_wrap=True)
    if as_json:
        emit_json({"repository": str(home), "target": target, "command": command})
    else:
        typer.echo(shlex.join(command))


def _server(
    repository: Path,
    host: str,
    ports: tuple[int, int, int],
    *,
    log: Path | None,
    trace: Path | None,
    exit_timeout_s: int,
    allow_remote: bool,
) -> "TritonServer":
    try:
        from .addresses import Ports
        from .server import TritonServer
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    return TritonServer(
        repository,
        host=host,
        ports=Ports(*ports),
        log=log,
        trace=trace,
        exit_timeout_s=exit_timeout_s,
        allow_remote=allow_remote,
    )
