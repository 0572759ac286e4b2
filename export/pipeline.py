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
    Graph,
    Manifest,
    Precision,
    hash_file,
    publish,
)
from ..engines.parity import Reference, compare
from ..engines.predictor import Choice, Predictor, reference_of
from ..engines.slices import GateSlices
from ..model.card import Card
from ..model.errors import RefusedError
from ..model.networks import Builder, build
from ..model.weights import load_network
from .half import convert_to_half, count_half_weights
from .to_onnx import BATCH, IR_VERSION, OPSET, contract, export_graph

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")
#: Weights of an fp16 file that may stay float32: the few that the converter must keep, such as resize scales.
LEAST_HALF_SHARE = 0.99

Progress = Callable[[str], None]


def export_bundle(
    source: Path,
    out: Path,
    slices: GateSlices,
    *,
    half: bool,
    half_is_optional: bool = False,
    builder: Builder | None = None,
    progress: Progress = lambda _: None,
) -> Bundle:
    """Export ``source`` (``card.json`` and ``weights.safetensors``) to the bundle ``out/<task>``.

    Args:
        slices: what the gates look at.
        half: whether to write an fp16 network beside the fp32 one.
        half_is_optional: whether an fp16 network that a gate refuses is left out instead of ending the export.
        builder: makes the network of a card whose family is ``own``.
        progress: told what is being done.

    Raises:
        UsageError: the card or the weights cannot be read.
        RefusedError: a gate said no; nothing is published then.
    """
    card = Card.load(source / CARD)
    network = load_network(card, source / WEIGHTS, builder or build)
    with publish(out / card.task) as work:
        shutil.copyfile(source / CARD, work / CARD)
        shutil.copyfile(source / WEIGHTS, work / WEIGHTS)
        graphs: tuple[Graph, ...] = ("preprocess", "decide", "network")
        for graph in graphs:
            progress(f"{card.task}: {graph} to ONNX")
            export_graph(card, graph, network, work / onnx_name(graph, "fp32"))
        if half:
            progress(f"{card.task}: network to fp16")
            _write_half(work)
        draft = _draft(card, work)
        progress(f"{card.task}: parity on {len(slices.images)} slices")
        manifest = prove(Bundle(work, draft, card, "", builder), slices)
        if half_is_optional:
            manifest = _leave_out_refused_half(manifest, work)
        _refuse_what_failed(manifest)
        (work / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(out / card.task, builder)


def onnx_name(graph: Graph, precision: Precision) -> str:
    """The file of a graph in a bundle; only the network has precisions."""
    return f"{graph}.{precision}.onnx" if graph == "network" else f"{graph}.onnx"


def _write_half(work: Path) -> None:
    target = work / onnx_name("network", "fp16")
    convert_to_half(work / onnx_name("network", "fp32"), target)
    half, total = count_half_weights(target)
    if half < LEAST_HALF_SHARE * total:
        raise RefusedError(
            f"{target.name}: only {half} of {total} weights are float16 after conversion", page="gate-refused"
        )


def _draft(card: Card, work: Path) -> Manifest:
    """The manifest before its evidence."""
    files = [_record(work / CARD, kind="card"), _record(work / WEIGHTS, kind="weights")]
    named: tuple[tuple[Graph, Precision], ...] = (
        ("preprocess", "fp32"),
        ("decide", "fp32"),
        ("network", "fp32"),
        ("network", "fp16"),
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


def prove(bundle: Bundle, slices: GateSlices) -> Manifest:
    """The bundle's manifest with fresh evidence for every graph: ONNX Runtime on this machine against torch.

    Where the network's code is not at hand, its float32 file is the reference and keeps the evidence that it has.
    """
    choice = reference_of(bundle)
    with Predictor.open(bundle, choice, edge="torch") as predictor:
        reference = Reference.of(predictor, bundle.card, slices, name=str(choice))
    proved: list[FileRecord] = []
    for record in bundle.manifest.files:
        is_reference = choice.backend != "torch" and record == bundle.require("network", choice.precision)
        if record.graph is None or record.precision is None or is_reference:
            proved.append(record)
            continue
        with Predictor.open(bundle, Choice("onnxruntime", record.precision)) as candidate:
            proved.append(record.model_copy(update={"evidence": compare(record.graph, reference, candidate)}))
    return bundle.manifest.model_copy(update={"files": tuple(proved)})


def _leave_out_refused_half(manifest: Manifest, work: Path) -> Manifest:
    half = manifest.graph("network", "fp16")
    if half is None or half.evidence is None or half.evidence.verdict != "refused":
        return manifest
    (work / half.path).unlink()
    return manifest.model_copy(update={"files": tuple(file for file in manifest.files if file.path != half.path)})


def _refuse_what_failed(manifest: Manifest) -> None:
    for record in manifest.files:
        if record.evidence is not None and record.evidence.verdict == "refused":
            raise RefusedError(
                f"{manifest.name}: {record.path} did not pass parity: {record.evidence.reason}", page="gate-refused"
            )
