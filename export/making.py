"""The files of a bundle in the making: three graphs, and the network in every precision that is wanted."""

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path

from torch import nn

from ..engines.bundle import (
    CARD,
    WEIGHTS,
    Bundle,
    Calibration,
    FileRecord,
    Gate,
    Graph,
    Manifest,
    Precision,
    hash_file,
)
from ..engines.machine import installed_version
from ..engines.parity import Reference
from ..model.card import Card
from ..model.errors import RefusedError
from .half import convert_to_half
from .int8 import write_int8
from .options import Wanted
from .ranges import preflight
from .to_onnx import IR_VERSION, OPSET, contract, export_graph

TOOLS = ("torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "numpy")


class Making:
    """How the files of one bundle are made, as often as wanted.

    Attributes:
        kept: for each precision the nodes that stay in float32.
        ranges: the verdicts of the range gate, which is passed before a file is made.
    """

    def __init__(
        self, source: Path, card: Card, network: nn.Module, wanted: Wanted, say: Callable[[str], None]
    ) -> None:
        self._source, self._card, self._network, self._wanted, self._say = source, card, network, wanted, say
        self.kept: dict[Precision, tuple[str, ...]] = {}
        self.ranges: dict[Precision, Gate] = {}

    def write_graphs(self, work: Path) -> Bundle:
        """Write card, weights and the three graphs in float32 to an empty folder; the bundle as it stands then."""
        for name in (CARD, WEIGHTS):
            shutil.copyfile(self._source / name, work / name)
        # The network first: it is the one that may not be exportable.
        graphs: tuple[Graph, ...] = ("network", "preprocess", "decide")
        for graph in graphs:
            self._say(f"{graph} to ONNX")
            export_graph(self._card, graph, self._network, work / onnx_name(graph, "fp32"))
        return self._draft(work)

    def write_reduced(self, work: Path, reference: Reference) -> Bundle:
        """Write the network in the reduced precisions beside it.

        Raises:
            RefusedError: no int8 network passes, and it is not optional.
        """
        single = work / onnx_name("network", "fp32")
        if self._wanted.half:
            self._say("ranges before fp16")
            self.ranges["fp16"] = preflight(single, reference)
            self.kept["fp16"] = self.ranges["fp16"].nodes
            convert_to_half(single, work / onnx_name("network", "fp16"), kept=self.kept["fp16"])
        if self._wanted.calibration is not None:
            target = work / onnx_name("network", "int8")
            try:
                self.kept["int8"] = write_int8(
                    target,
                    lambda: self._draft(work),
                    reference,
                    self._wanted.calibration,
                    self._wanted.method,
                    quantizer=self._wanted.quantizer,
                    margin=self._wanted.margin,
                    progress=self._say,
                )
            except RefusedError as error:
                if not self._wanted.optional:
                    raise RefusedError(f"{self._card.task}: {error}", page="gate-refused") from None
                target.unlink(missing_ok=True)
        return self._draft(work)

    def _draft(self, work: Path) -> Bundle:
        return Bundle(work, _describe(self._card, work, self._wanted), self._card, "", builder=self._wanted.builder)


def onnx_name(graph: Graph, precision: Precision) -> str:
    """The file of a graph in a bundle; only the network has precisions."""
    return f"{graph}.{precision}.onnx" if graph == "network" else f"{graph}.onnx"


def _describe(card: Card, work: Path, wanted: Wanted) -> Manifest:
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
            interface = {
                "inputs": inputs,
                "outputs": outputs,
                "batch": wanted.batch,
                "opset": OPSET,
                "ir_version": IR_VERSION,
                "calibration": _calibration(wanted) if precision == "int8" else None,
            }
            files.append(_record(path, kind="onnx", graph=graph, precision=precision).model_copy(update=interface))
    created = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    return Manifest(name=card.task, created=created, tools=tool_versions(), files=tuple(files))


def _calibration(wanted: Wanted) -> Calibration | None:
    slices = wanted.calibration
    return slices and Calibration(
        method=wanted.method,
        quantizer=wanted.quantizer,
        images=slices.name,
        images_sha256=slices.sha256,
        slices=len(slices.samples),
    )


def _record(path: Path, **fields: object) -> FileRecord:
    return FileRecord.model_validate(
        {"path": path.name, "sha256": hash_file(path), "bytes": path.stat().st_size, **fields}
    )


def tool_versions() -> dict[str, str]:
    """The versions of everything that has a say in an exported file; a checkout that is not installed has none."""
    found = {name: installed_version(name) for name in ("coronanet", *TOOLS)}
    return {name: version for name, version in found.items() if version is not None}
