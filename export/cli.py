"""`coronanet export` and `coronanet verify`."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.table import Table

from ..console import JsonOption, emit_json, err, fail, out, warn
from ..engines.bundle import (
    Bundle,
    CalibrationMethod,
    FileRecord,
    GateName,
    Manifest,
    Precision,
    Quantizer,
    Verdict,
)
from ..engines.connection_cli import (
    ServerKeyOption,
    ServerOption,
    TlsCertificateOption,
    TlsKeyOption,
    TlsOption,
    TlsRootOption,
    load_connection,
)
from ..engines.keys_cli import load_public_key, load_signing_key, signature_json, signature_line
from ..engines.non_inferiority import MARGIN
from ..engines.own_slices import find_slices
from ..engines.places import bundle_home
from ..engines.plans import plans_of
from ..engines.predictor import reference_of
from ..engines.ranking import Ranking, forget_ranking, read_ranking
from ..model.errors import MissingPackageError, RefusedError, UsageError
from ..model.readers.windows import parse_window
from ..model.tasks import TASK_NAMES, TaskName
from ..window_option import WINDOW, WindowCommand
from .options import MAX_BATCH
from .plan_target import plan_target
from .shipped import PRETRAINED, export_all
from .skew_cli import verify_server

GATES: tuple[GateName, ...] = get_args(GateName)

if TYPE_CHECKING:
    from ..model.networks import Builder

DataOption = Annotated[
    Path | None,
    typer.Option("--data", help="Folder of real CT for the gates: the data sets, or images/ and masks/ of your own."),
]
WindowOption = Annotated[
    str | None,
    typer.Option(WINDOW, metavar="LOW HIGH | NAME", help="What black and white of own 8-bit images mean, in HU."),
]
NetworkOption = Annotated[
    str | None,
    typer.Option("--network", metavar="MODULE:FUNCTION", help="Your own network: the function that makes it."),
]


def register(app: typer.Typer) -> None:
    app.command("export", cls=WindowCommand)(export_verb)
    app.command("verify", cls=WindowCommand)(verify_verb)


def export_verb(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="A task that ships, or a folder with card.json and weights.safetensors; none: all that ship."
        ),
    ] = None,
    *,
    fp16: Annotated[bool, typer.Option("--fp16", help="Write an fp16 network beside the fp32 one.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Write an int8 network too; needs real slices.")] = False,
    tensorrt: Annotated[bool, typer.Option("--tensorrt", help="Build TensorRT plans of every network too.")] = False,
    compute_capability: Annotated[
        list[str] | None,
        typer.Option(help="GPUs to build plans for, such as 8.6 (TensorRT-RTX; again for more); else the one here."),
    ] = None,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Plans that newer versions of TensorRT run too.")
    ] = False,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Plans that every GPU from Ampere on runs.")
    ] = False,
    weight_stripped: Annotated[
        bool, typer.Option("--weight-stripped", help="Plans without weights, which are taken from the ONNX file.")
    ] = False,
    calibration: Annotated[
        CalibrationMethod, typer.Option(help="How int8 reads its ranges from training slices.")
    ] = "min-max",
    quantizer: Annotated[
        Quantizer, typer.Option(help="Who quantizes: ONNX Runtime, or NVIDIA's ModelOpt where it is installed.")
    ] = "onnxruntime",
    margin: Annotated[
        float, typer.Option(min=0, max=1, help="Dice or AUC that a reduced precision may lose.")
    ] = MARGIN,
    max_batch: Annotated[int, typer.Option(min=1, max=1024, help="Largest batch that the graphs take.")] = MAX_BATCH,
    rebuilds: Annotated[
        int,
        typer.Option(
            min=1, max=20, help="How many times to build each ONNX network, to say what changes from build to build."
        ),
    ] = 1,
    folder: Annotated[Path | None, typer.Option("--out", help="Where the bundles go.")] = None,
    data: DataOption = None,
    window: WindowOption = None,
    network: NetworkOption = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Its weights, as safetensors.")] = None,
    card: Annotated[Path | None, typer.Option("--card", help="Its card.json.")] = None,
    sign: Annotated[
        Path | None, typer.Option("--sign", metavar="PRIVATE_KEY", help="Sign every bundle with this key.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export networks to verified bundles: ONNX, five gates on real slices, speed on this machine."""
    meaning = None if window is None else parse_window(window)
    signer = load_signing_key(sign)
    wishes = (compute_capability, version_compatible, hardware_compatible, weight_stripped)
    if not tensorrt and any(wishes):
        raise UsageError("--compute-capability and the kinds of plans are for --tensorrt: give that too")
    targets = dict.fromkeys(
        plan_target(
            compute_capability=wish,
            version_compatible=version_compatible,
            hardware_compatible=hardware_compatible,
            weight_stripped=weight_stripped,
        )
        for wish in (compute_capability or [None])
        if tensorrt
    )
    with _sources(models, network, weights, card) as (sources, builder):
        if folder is None and any(source.parent != PRETRAINED for source in sources):
            raise UsageError("own weights need a place of their own: export with --out DIR, then use --bundles DIR")
        bundles = export_all(
            sources,
            bundle_home(folder),
            half=fp16,
            int8=int8,
            method=calibration,
            quantizer=quantizer,
            margin=margin,
            max_batch=max_batch,
            rebuilds=rebuilds,
            targets=tuple(targets),
            data=data,
            window=meaning,
            builder=builder,
            signer=signer,
        )
    rankings: dict[TaskName, Ranking] = {
        name: ranking for name, bundle in bundles.items() if (ranking := read_ranking(bundle))
    }
    if as_json:
        emit_json({"bundles": [_bundle_json(bundles[name], rankings[name]) for name in bundles]})
        return
    out.print(gates_table({name: bundle.manifest for name, bundle in bundles.items()}))
    out.print(_ranking_table(rankings))
    for line in rebuild_lines({name: bundle.manifest for name, bundle in bundles.items()}):
        out.print(line, soft_wrap=True)
    out.print(f"bundles: {bundle_home(folder)}", soft_wrap=True)
    for name, bundle in bundles.items() if signer else ():
        out.print(f"{name}: {signature_line(bundle)}", soft_wrap=True)


def verify_verb(
    ctx: typer.Context,
    bundle: Annotated[Path | None, typer.Argument(help="A bundle's folder.")] = None,
    *,
    server: ServerOption = None,
    bundles: Annotated[
        Path | None, typer.Option("--bundles", help="With --server: the bundles that it should be serving.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="With --server: what its networks compute in; none: as far off as the bundles allow any."),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=0.1, help="With --server: seconds that it may take for a slice.")
    ] = 30.0,
    tls: TlsOption = False,
    tls_root: TlsRootOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    server_key: ServerKeyOption = None,
    data: DataOption = None,
    window: WindowOption = None,
    network: NetworkOption = None,
    key: Annotated[
        Path | None, typer.Option("--key", metavar="PUBLIC_KEY", help="Whose signature the bundle must carry.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle: its signature, every hash, the card, and the gates again on this machine.

    With --server, check that a live ensemble sees and decides on real slices what torch does, step by step.
    """
    meaning = None if window is None else parse_window(window)
    connection = load_connection(
        server, tls=tls, tls_root=tls_root, tls_certificate=tls_certificate, tls_key=tls_key, server_key=server_key
    )
    if (bundle is None) is (connection is None):
        raise UsageError("expected a bundle's folder, or --server HOST:PORT with --bundles for the folder of all")
    if connection is not None:
        if network is not None:
            raise UsageError("--network is for one bundle: verify it alone, without --server")
        verify_server(
            ctx.obj(bundles, key=load_public_key(key)),
            connection,
            data=data,
            window=meaning,
            precision=_precision(precision),
            timeout_s=timeout_s,
            as_json=as_json,
        )
        return
    assert bundle is not None
    if bundles is not None or precision is not None:
        raise UsageError("--bundles and --precision are for --server")
    builder = None if network is None else _builder(network)
    opened = Bundle.open(bundle, builder=builder, key=load_public_key(key))
    if network is not None and not opened.card.network.is_own:
        raise UsageError(f"{bundle} is a {opened.card.network.family} of this project: leave out --network")
    try:
        from .gates import prove_again
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    err.print(f"{bundle}: {signature_line(opened)}; every hash is the manifest's; running the gates", soft_wrap=True)
    if not opened.has_code:
        warn(
            f"the network of {bundle} is the user's own: network.fp32.onnx keeps the parity with torch that its export "
            "recorded, and the other files are compared with it; --network MODULE:FUNCTION runs torch again"
        )
    manifest = prove_again(opened, find_slices(data, meaning, opened.card.task))
    refused = [record for record in manifest.files if record.refusal]
    if refused or plans_of(opened.manifest):
        # What was found about them may change what is fastest.
        forget_ranking(opened)
    if as_json:
        verdict = "refused" if refused else "passed"
        signed = {"sha256": opened.sha256, "signature": signature_json(opened)}
        compared = {"verdict": verdict, "reference": str(reference_of(opened))}
        emit_json({"bundle": opened.manifest.name, **signed, **compared, **_files_json(manifest)})
    else:
        out.print(gates_table({opened.card.task: manifest}))
        out.print(f"{opened.manifest.name}: {signature_line(opened)}", soft_wrap=True)
    for record in refused:
        no = f"{record.path} does not pass {record.refusal} (on this machine)"
        fail(str(RefusedError(no, page="gate-refused")))
    if refused:
        raise typer.Exit(RefusedError.exit_code)


def gates_table(manifests: Mapping[TaskName, Manifest]) -> Table:
    """Every graph with its size and what the gates found; an empty cell is a gate that does not look at it."""
    table = Table("bundle", "file", "MB", *(name.replace("_", "-") for name in GATES), "labels equal", title="Gates")
    for name, manifest in manifests.items():
        for record in manifest.files:
            if (found := record.evidence) is not None:
                verdicts = record.verdicts
                table.add_row(
                    name,
                    record.path,
                    f"{record.bytes / 1e6:.2f}",
                    *(_cell(record, gate, verdicts.get(gate)) for gate in GATES),
                    "-" if found.label_agreement is None else f"{found.label_agreement:.6f}",
                )
    return table


def rebuild_lines(manifests: Mapping[TaskName, Manifest]) -> list[str]:
    """What changed from build to build, a line a network; nothing where each was built once."""
    lines: list[str] = []
    for name, manifest in manifests.items():
        for record in manifest.files:
            figures = record.evidence.metric if record.evidence else {}
            if builds := figures.get("rebuilds"):
                score = f", score within {figures['rebuild_spread']:.4f}" if "rebuild_spread" in figures else ""
                lines.append(
                    f"{name} {record.path}: {builds:.0f} builds, {figures['rebuild_files']:.0f} different files, "
                    f"at most {figures['rebuild_flips']:.2e} of the labels flip{score}"
                )
    return lines


def _cell(record: FileRecord, name: GateName, verdict: Verdict | None) -> str:
    gate = next((gate for gate in record.gates if gate.gate == name), None)
    figures = gate.figures if gate else {}
    match name:
        case "parity" if verdict == "not_run" and record.evidence:
            return f"{verdict}: {record.evidence.reason}"
        case "precision" if gate and (kept := figures.get("kept", 0)):
            return f"{verdict}, {kept:.0f} in fp32"
        case "non_inferiority" if gate:
            changes = [f"{value:+.4f}" for figure, value in figures.items() if figure.endswith("_change")]
            return " ".join([verdict or "", *changes])
        case "worth_it" if gate and "speedup" in figures:
            return f"{'yes' if verdict == 'passed' else 'no'}, x {figures['speedup']:.2f} here"
        case _:
            return verdict or ""


def _ranking_table(rankings: Mapping[TaskName, Ranking]) -> Table:
    table = Table(
        "bundle", "engine", "precision", "verdict", "labels equal", "ms a slice", "chosen", title="This machine"
    )
    for name, ranking in rankings.items():
        for way in ranking.ways:
            table.add_row(
                name,
                way.backend,
                way.precision,
                way.verdict if not way.reason else f"{way.verdict}: {way.reason}",
                "-" if way.evidence is None else f"{way.evidence.label_agreement or 0:.6f}",
                "-" if way.latency_ms is None else f"{way.latency_ms:.1f}",
                "*" if way.choice == ranking.best else "",
            )
    return table


def _bundle_json(bundle: Bundle, ranking: Ranking) -> dict[str, object]:
    return {
        "name": bundle.manifest.name,
        "path": str(bundle.path),
        "sha256": bundle.sha256,
        "signature": signature_json(bundle),
        **_files_json(bundle.manifest),
        "ranking": [way.model_dump(mode="json") for way in ranking.ways],
    }


def _files_json(manifest: Manifest) -> dict[str, object]:
    return {"files": [_file_json(record) for record in manifest.files]}


def _file_json(record: FileRecord) -> dict[str, object]:
    return record.model_dump(mode="json", exclude_none=True)


@contextmanager
def _sources(
    models: Sequence[str] | None, network: str | None, weights: Path | None, card: Path | None
) -> "Generator[tuple[list[Path], Builder | None]]":
    """The folders to export from, and the builder of the user's own network where one is named."""
    if network is None and weights is None and card is None:
        yield [_source(name) for name in models or TASK_NAMES], None
        return
    if models:
        raise UsageError(f"--network, --weights and --card are one network of your own: leave out {' '.join(models)}")
    try:
        from .own_network import own_source
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    with own_source(network, weights, card) as (source, builder):
        yield [source], builder


def _builder(name: str) -> "Builder":
    try:
        from .own_network import import_network
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return import_network(name)


def _precision(name: str | None) -> Precision | None:
    known: dict[str, Precision] = {name: name for name in get_args(Precision)}
    if name is not None and name not in known:
        raise UsageError(f"no precision '{name}': expected one of {', '.join(known)}")
    return None if name is None else known[name]


def _missing(error: ModuleNotFoundError) -> MissingPackageError:
    return MissingPackageError(error.name or "torch", purpose="the torch reference", extra="train,cpu")


def _source(name: str) -> Path:
    if name in TASK_NAMES:
        return PRETRAINED / name
    folder = Path(name)
    if not folder.is_dir():
        raise UsageError(
            f"no model '{name}': expected {', '.join(TASK_NAMES)}, or a folder with card.json and weights.safetensors"
        )
    return folder
