"""`coronanet serve`, with `coronanet repository` and `coronanet predict` beside it."""

import shlex
import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import JsonOption, emit_json, err, fail, out
from ..engines.keys_cli import RequireSignatureOption, load_public_key
from ..model.errors import RefusedError, UsageError
from . import predict_cli, repository_cli
from .repository_cli import BundlesOption, InstancesOption, fill, home_of, missing_package, provide

if TYPE_CHECKING:
    from .server import TritonServer

WATCH_S = 5.0


def register(app: typer.Typer) -> None:
    repository_cli.register(app)
    app.command("serve")(serve_verb)
    predict_cli.register(app)


def serve_verb(
    ctx: typer.Context,
    *,
    bundles: BundlesOption = None,
    repository: Annotated[
        Path | None, typer.Option("--repository", help="Serve this filled repository as it stands.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="A loopback address.")] = "127.0.0.1",
    http_port: Annotated[int, typer.Option("--http-port", min=1, max=65535)] = 8000,
    grpc_port: Annotated[int, typer.Option("--grpc-port", min=1, max=65535)] = 8001,
    metrics_port: Annotated[int, typer.Option("--metrics-port", min=1, max=65535)] = 8002,
    instances: InstancesOption = 2,
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
        if repository is None:
            fill(provide(ctx.obj, bundles, key), home, instances)
        _print_container(home, host, (http_port, grpc_port, metrics_port), as_json)
        return
    server = _server(home, host, http_port, grpc_port, metrics_port)
    server.check_machine()
    if repository is None:
        fill(provide(ctx.obj, bundles, key), home, instances)
    with err.status(f"starting Triton; its log: {server.log}"):
        server.start()
    try:
        _announce(server, as_json)
        while True:
            time.sleep(WATCH_S)
            server.check()
    except RefusedError as error:
        if not as_json:
            raise
        # What --json promises on stdout is one object, and that was printed when the server was ready.
        fail(str(error))
        raise typer.Exit(error.exit_code) from None
    finally:
        server.stop()
        err.print("stopped")


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal handler
    """End with exit code 0, and let nothing interrupt the clean-up."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise SystemExit(0)


def _announce(server: "TritonServer", as_json: bool) -> None:
    ready = {
        "grpc": server.address,
        "http": server.http_address,
        "metrics": server.metrics_address,
        "model": "coronanet",
        "repository": str(server.repository),
        "log": str(server.log),
        "pid": server.pid,
    }
    if as_json:
        emit_json(ready)
    else:
        out.print(
            f"ready: model coronanet, gRPC {server.address}, HTTP {server.http_address}, "
            f"metrics {server.metrics_address}; Ctrl-C stops",
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


def _server(repository: Path, host: str, http: int, grpc: int, metrics: int) -> "TritonServer":
    try:
        from .server import Ports, TritonServer
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    return TritonServer(repository, host=host, ports=Ports(http, grpc, metrics))
