"""`coronanet repository`, `coronanet serve` and `coronanet predict`."""

import signal
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..console import JsonOption, emit_json, err, fail, out, warn
from ..engines.bundle import Bundle
from ..engines.keys_cli import RequireSignatureOption, load_public_key
from ..engines.places import BundleProvider
from ..model.errors import CoronanetError, MissingPackageError, UsageError
from ..model.tasks import TaskName
from . import predict_cli

if TYPE_CHECKING:
    from ..engines.keys import PublicKey
    from .repository import FilledStep
    from .server import TritonServer

BundlesOption = Annotated[Path | None, typer.Option("--bundles", help="Folder of the bundles.")]
InstancesOption = Annotated[int, typer.Option("--instances", min=1, max=64, help="Processes for each network.")]


def register(app: typer.Typer) -> None:
    app.command("repository")(repository_verb)
    app.command("serve")(serve_verb)
    predict_cli.register(app)


def repository_verb(
    ctx: typer.Context,
    *,
    folder: Annotated[Path | None, typer.Option("--out", help="The model repository.")] = None,
    bundles: BundlesOption = None,
    instances: InstancesOption = 2,
    require_signature: RequireSignatureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fill the model repository that Triton mounts: configurations for every target, models for this machine."""
    key = load_public_key(require_signature)
    home = _home(folder, bundles, instances)
    opened = _provide(ctx.obj, bundles, key)
    steps = _fill(opened, home, instances)
    missing = _without_plans(opened)
    if as_json:
        described = [_step_json(each) for each in steps]
        emit_json({"repository": str(home), "instances": instances, "steps": described, "without_plans": missing})
        return
    table = Table("model", "runs", "engine", "precision", "threads", title="Model repository")
    for each in steps:
        step = each.step
        table.add_row(each.name, f"{step.bundle}/{step.file}", step.backend, step.precision, str(step.threads))
    out.print(table)
    out.print(f"repository: {home}", soft_wrap=True)
    if missing:
        err.print(
            f"not for `--model-config-name tensorrt`: {', '.join(missing)} without a proved TensorRT plan; build them "
            "on the server's GPU with `coronanet export --fp16 --tensorrt`, or use `--model-config-name onnxruntime`",
            soft_wrap=True,
        )


def serve_verb(
    ctx: typer.Context,
    *,
    bundles: BundlesOption = None,
    repository: Annotated[
        Path | None, typer.Option("--repository", help="Serve this filled repository as it stands.")
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
    log: Annotated[
        Path | None, typer.Option("--log", help="Triton's log; events are beside it. None: in the user's cache.")
    ] = None,
    exit_timeout_s: Annotated[
        int, typer.Option("--exit-timeout", min=1, help="Seconds that accepted requests may take to finish at the end.")
    ] = 10,
    instances: InstancesOption = 2,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="Let clients trace requests to this file, as `bench waterfall` does."),
    ] = None,
    require_signature: RequireSignatureOption = None,
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
    home = _home(repository, bundles, instances)
    server = _server(
        home, host, (http_port, grpc_port, metrics_port), log, trace, exit_timeout_s, allow_remote=allow_remote
    )
    server.check_machine()
    if repository is None:
        _fill(_provide(ctx.obj, bundles, key), home, instances)
    _run(server, as_json)


def _run(server: "TritonServer", as_json: bool) -> None:
    from .addresses import REMOTE_WARNING, is_loopback
    from .serve import serve

    if not is_loopback(server.host):
        warn(REMOTE_WARNING)
    is_ready = False
    starting = err.status(f"starting Triton; its log: {server.log}")

    def ready(events: Path) -> None:
        nonlocal is_ready
        is_ready = True
        starting.stop()
        _announce(server, events, as_json)

    try:
        with starting:
            serve(server, ready)
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


def _announce(server: "TritonServer", events: Path, as_json: bool) -> None:
    ready = {
        "grpc": server.address,
        "http": server.http_address,
        "metrics": server.metrics_address,
        "model": "coronanet",
        "repository": str(server.repository),
        "log": str(server.log),
        "events": str(events),
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


def _home(folder: Path | None, bundles: Path | None, instances: int) -> Path:
    """The repository of a verb; what would change the committed configurations goes to the user's cache instead."""
    try:
        from .repository import repository_home
        from .triton_config import DEFAULT_INSTANCES
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    home = repository_home(folder, standard=bundles is None and instances == DEFAULT_INSTANCES)
    if folder is None and home != repository_home(None):
        err.print(f"--bundles or --instances of your own: {home}, not the committed repository", soft_wrap=True)
    return home


def _provide(provide: BundleProvider, bundles: Path | None, key: "PublicKey | None") -> Mapping[TaskName, Bundle]:
    opened = provide(bundles, key=key)
    if key is not None:
        err.print(f"every bundle is signed with key {key.fingerprint}")
    return opened


def _fill(bundles: Mapping[TaskName, Bundle], home: Path, instances: int) -> "tuple[FilledStep, ...]":
    try:
        from .repository import embedded_choices, fill_repository
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    from ..engines.ranking import choose

    with err.status("filling the model repository"):
        return fill_repository(bundles, home, embedded_choices(bundles, choose(bundles)), instances=instances)


def _without_plans(bundles: Mapping[TaskName, Bundle]) -> list[TaskName]:
    from .container_plans import without_plans

    return list(without_plans(bundles))


def _server(
    repository: Path,
    host: str,
    ports: tuple[int, int, int],
    log: Path | None,
    trace: Path | None,
    exit_timeout_s: int,
    *,
    allow_remote: bool,
) -> "TritonServer":
    try:
        from .addresses import Ports
        from .server import TritonServer
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return TritonServer(
        repository,
        host=host,
        ports=Ports(*ports),
        log=log,
        trace=trace,
        exit_timeout_s=exit_timeout_s,
        allow_remote=allow_remote,
    )


def _missing(error: ModuleNotFoundError) -> MissingPackageError:
    return MissingPackageError(error.name or "tritonclient", purpose="serving", extra="serve")


def _step_json(each: "FilledStep") -> dict[str, object]:
    step = each.step
    keys = ("bundle", "bundle_sha256", "graph", "file", "sha256", "backend", "precision", "threads", "max_batch")
    return {"model": each.name, **{key: getattr(step, key) for key in keys}}
