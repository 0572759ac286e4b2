"""A card and its weights become a bundle: graphs, gates, manifest, and only then its name."""

import datetime as dt
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from ..engines.bundle import (
    CARD,
    MANIFEST,
    WEIGHTS,
    Bundle,
    FileRecord,
    Gate,
    Graph,
    Manifest,
    Precision,
    hash_file,
    publish,
)
from ..engines.parity import Reference
from ..engines.plans import plans_of
from ..engines.ranking import Ranking, machine, measure, worth_it, write_ranking
from ..engines.signature import SIGNATURE
from ..engines.slices import GateSlices
from ..model.card import Card
from ..model.errors import CoronanetError, RefusedError
from ..model.networks import build
from ..model.weights import load_network
from .gates import known_ways, prove, refer
from .half import convert_to_half
from .int8 import write_int8
from .options import PLAIN, Wanted
from .plan_set import with_plans
from .ranges import judge_ranges, measure_ranges
from .sbom import add_sbom
from .to_onnx import BATCH, IR_VERSION, OPSET, contract, export_graph

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
#: Slices that the range preflight reads.
PREFLIGHT_SLICES = 8

Progress = Callable[[str], None]


def export_bundle(
    source: Path, out: Path, slices: GateSlices, wanted: Wanted = PLAIN, *, progress: Progress = lambda _: None
) -> Bundle:
    """Export ``source`` (``card.json`` and ``weights.safetensors``) to the bundle ``out/<task>``.

    How fast each way to run it is on this machine is measured too, and kept in the user's cache.

    Args:
        slices: what the gates look at.
        progress: told what is being done.

    Raises:
        UsageError: the card or the weights cannot be read.
        RefusedError: a gate said no; nothing is published then.
    """
    card = Card.load(source / CARD)
    network = load_network(card, source / WEIGHTS, wanted.builder or build)

    def say(what: str) -> None:
        progress(f"{card.task}: {what}")

    with publish(out / card.task) as work:
        shutil.copyfile(source / CARD, work / CARD)
        shutil.copyfile(source / WEIGHTS, work / WEIGHTS)
        graphs: tuple[Graph, ...] = ("preprocess", "decide", "network")
        for graph in graphs:
            say(f"{graph} to ONNX")
            export_graph(card, graph, network, work / onnx_name(graph, "fp32"))

        def draft() -> Bundle:
            return Bundle(work, _draft(card, work), card, "", builder=wanted.builder)

        say(f"the reference on {len(slices.samples)} slices")
        reference = refer(draft(), slices)
        gates: dict[Precision, Gate] = {}
        kept: dict[Precision, tuple[str, ...]] = {}
        if wanted.half:
            say("ranges before fp16")
            gates["fp16"] = _preflight(work, reference)
            kept["fp16"] = gates["fp16"].nodes
            convert_to_half(work / onnx_name("network", "fp32"), work / onnx_name("network", "fp16"), kept=kept["fp16"])
        if wanted.calibration is not None:
            target = work / onnx_name("network", "int8")
            try:
                kept["int8"] = write_int8(
                    target, draft, reference, wanted.calibration, wanted.method, margin=wanted.margin, progress=say
                )
            except RefusedError as error:
                if not wanted.optional:
                    raise RefusedError(f"{card.task}: {error}", page="gate-refused") from None
                target.unlink(missing_ok=True)
        say("gates")
        manifest = prove(draft(), reference, kept=kept, ranges=gates, margin=wanted.margin)
        if wanted.optional:
            manifest = _leave_out_refused(manifest, work)
        _refuse_what_failed(manifest)
        previous = _previous(out / card.task)
        if wanted.targets or previous is not None:
            bundle = Bundle(work, manifest, card, "", builder=wanted.builder)
            manifest = with_plans(bundle, wanted.targets, previous, reference, margin=wanted.margin, progress=say)
            _refuse_what_failed(manifest)
        say("measuring this machine")
        bundle = Bundle(work, manifest, card, "", builder=wanted.builder)
        ways = measure(bundle, reference, margin=wanted.margin, known=known_ways(manifest))
        manifest = _with_worth(manifest, {p: worth_it(ways, p) for p in ("fp16", "int8")})
        text = add_sbom(manifest, card, work).to_json().encode()
        (work / MANIFEST).write_bytes(text)
        if wanted.signer is not None:
            (work / SIGNATURE).write_text(wanted.signer.sign(text).to_json(), encoding="utf-8")
    bundle = Bundle.open(out / card.task, builder=wanted.builder, key=wanted.signer.public if wanted.signer else None)
    write_ranking(Ranking(bundle_sha256=bundle.sha256, machine=machine(), ways=ways))
    return bundle


def onnx_name(graph: Graph, precision: Precision) -> str:
    """The file of a graph in a bundle; only the network has precisions."""
    return f"{graph}.{precision}.onnx" if graph == "network" else f"{graph}.onnx"


def _previous(path: Path) -> Bundle | None:
    """The bundle with plans that an export replaces; None where there is none, or none that is whole."""
    try:
        bundle = Bundle.open(path)
    except CoronanetError:
        return None
    return bundle if plans_of(bundle.manifest) else None


def _preflight(work: Path, reference: Reference) -> Gate:
    network = work / onnx_name("network", "fp32")
    every = max(1, len(reference.answers) // PREFLIGHT_SLICES)
    pixels = [answer.pixels for answer in reference.answers[::every]]
    return judge_ranges(network, measure_ranges(network, pixels))


def _draft(card: Card, work: Path) -> Manifest:
    """The manifest before its evidence."""
    files = [_record(work / CARD, kind="card"), _record(work / WEIGHTS, kind="weights")]
    named: tuple[tuple[Graph, Precision], ...] = (
        ("preprocess", "fp32"),
        ("decide", "fp32"),
        ("network", "fp32"),
        ("network", "fp16"),
        ("network", "int8"),
    )
    for graph, precision in named:
        path = work / onnx_name(graph, precision)
        if path.is_file():
            inputs, outputs = contract(card, graph)
            interface = {"inputs": inputs, "outputs": outputs, "batch": BATCH, "opset": OPSET, "ir_version": IR_VERSION}
            files.append(_record(path, kind="onnx", graph=graph, precision=precision).model_copy(update=interface))
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return Manifest(name=card.task, created=created, tools=tool_versions(), files=tuple(files))


def _record(path: Path, **fields: object) -> FileRecord:
    return FileRecord.model_validate(
        {"path": path.name, "sha256": hash_file(path), "bytes": path.stat().st_size, **fields}
    )


def tool_versions() -> dict[str, str]:
    """The versions of everything that has a say in an exported file."""
    return {name: metadata.version(name) for name in ("coronanet", *TOOLS)}


def _leave_out_refused(manifest: Manifest, work: Path) -> Manifest:
    left: list[FileRecord] = []
    for record in manifest.files:
        if record.precision in ("fp16", "int8") and record.refusal:
            (work / record.path).unlink()
        else:
            left.append(record)
    return manifest.model_copy(update={"files": tuple(left)})


def _refuse_what_failed(manifest: Manifest) -> None:
    for record in manifest.files:
        if why := record.refusal:
            raise RefusedError(f"{manifest.name}: {record.path} did not pass {why}", page="gate-refused")


def _with_worth(manifest: Manifest, worth: dict[Precision, Gate]) -> Manifest:
    files = tuple(
        record.model_copy(update={"gates": (*record.gates, worth[record.precision])})
        if record.graph == "network" and record.precision in worth
        else record
        for record in manifest.files
    )
    return manifest.model_copy(update={"files": files})
