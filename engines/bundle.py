"""The bundle: an immutable folder with everything one network needs, and the proof that it works.

Published whole or not at all: written to a temporary folder beside its name, then renamed.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, ValidationError

from ..model.card import Card, StrictModel, explain
from ..model.errors import RefusedError, UsageError
from .base import TensorSpec
from .signature import SIGNATURE, Signature, read_signature

if TYPE_CHECKING:
    from ..model.networks import Builder
    from .keys import PublicKey

MANIFEST = "manifest.json"
CARD = "card.json"
WEIGHTS = "weights.safetensors"
REMEDY = "export it again with `coronanet export`"

Graph = Literal["preprocess", "network", "decide"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Verdict = Literal["passed", "refused", "not_run"]
GateName = Literal["parity", "precision", "range", "non_inferiority", "worth_it"]
#: How the ranges of an int8 network's activations are read from the training slices.
CalibrationMethod = Literal["min-max", "entropy", "percentile"]
#: Who puts the quantize / dequantize pairs into an int8 network.
Quantizer = Literal["onnxruntime", "modelopt"]
#: The two TensorRTs, by the name of their module.
Runtime = Literal["tensorrt", "tensorrt_rtx"]


class TensorRecord(StrictModel):
    """A tensor of a graph: name, numpy dtype, shape with -1 for an axis of any size; axis 0 is the batch."""

    name: str
    dtype: Literal["int16", "float32", "uint8"]
    shape: tuple[int, ...]

    @property
    def spec(self) -> TensorSpec:
        return TensorSpec(self.name, self.dtype, self.shape)


class BatchRange(StrictModel):
    """The batch sizes a graph is made for."""

    min: Annotated[int, Field(ge=1)]
    opt: Annotated[int, Field(ge=1)]
    max: Annotated[int, Field(ge=1)]


class Evidence(StrictModel):
    """What was compared with the torch reference, on which images, and what came out.

    ``label_agreement`` is the share of equal labels in 0..1; differences are of the graph's own output.
    """

    reference: str
    images: str
    images_sha256: str
    slices: int
    max_difference: float | None
    mean_difference: float | None
    label_agreement: float | None
    metric: dict[str, float]
    verdict: Verdict
    reason: str


class Gate(StrictModel):
    """What one gate says about a file.

    ``figures`` are what was measured, by name; ``nodes`` the ONNX nodes that the verdict is about, such as those that
    were kept in a higher precision.
    """

    gate: GateName
    verdict: Verdict
    reason: str
    figures: dict[str, float] = Field(default_factory=dict[str, float])
    nodes: tuple[str, ...] = ()


class PlanTarget(StrictModel):
    """What a TensorRT plan runs on.

    ``version`` is the runtime's own, which must be this machine's; where ``version_compatible``, that or a newer one.
    ``compute_capability`` is as in ``"8.6"``; where ``hardware_compatible``, that of the oldest GPU that will do.
    ``gpu`` is None where the plan was built without one. ``onnx_sha256`` names the file that it was built from, which a
    ``weight_stripped`` plan takes its weights from.
    """

    runtime: Runtime
    version: str
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")]
    gpu: str | None
    version_compatible: bool = False
    hardware_compatible: bool = False
    weight_stripped: bool = False
    onnx_sha256: str | None = None


class Calibration(StrictModel):
    """Where the ranges of an int8 network come from: training slices by name, hash of their pixels and number."""

    method: CalibrationMethod
    quantizer: Quantizer
    images: str
    images_sha256: str
    slices: int


class FileRecord(StrictModel):
    """One file of the bundle.

    ``evidence`` (of the parity gate) and ``gates`` (the other four) are there for graphs and plans, ``target`` for
    plans, ``calibration`` for an int8 network.
    """

    path: str
    sha256: str
    bytes: int
    kind: Literal["card", "weights", "onnx", "plan", "sbom"]
    graph: Graph | None = None
    precision: Precision | None = None
    opset: int | None = None
    ir_version: int | None = None
    inputs: tuple[TensorRecord, ...] = ()
    outputs: tuple[TensorRecord, ...] = ()
    batch: BatchRange | None = None
    evidence: Evidence | None = None
    gates: tuple[Gate, ...] = ()
    target: PlanTarget | None = None
    calibration: Calibration | None = None

    @property
    def verdicts(self) -> dict[GateName, Verdict]:
        """The verdict of every gate that looked at this file."""
        parity: dict[GateName, Verdict] = {"parity": self.evidence.verdict} if self.evidence else {}
        others: dict[GateName, Verdict] = {gate.gate: gate.verdict for gate in self.gates}
        return parity | others

    @property
    def refusal(self) -> str:
        """The first gate that says no and its reason; empty where none does. That a file is not worth it on the
        machine that exported it says nothing against it."""
        if self.evidence is not None and self.evidence.verdict == "refused":
            return f"parity: {self.evidence.reason}"
        for gate in self.gates:
            if gate.verdict == "refused" and gate.gate != "worth_it":
                return f"{gate.gate.replace('_', '-')}: {gate.reason}"
        return ""

    @property
    def is_proved(self) -> bool:
        """Whether the file may decide: it passed parity and, in a reduced precision, non-inferiority, and no gate
        refused it. Whether it is worth its while on a machine is another question."""
        needed: tuple[GateName, ...] = ("parity",) if self.precision == "fp32" else ("parity", "non_inferiority")
        return not self.refusal and all(self.verdicts.get(gate) == "passed" for gate in needed)


class Manifest(StrictModel):
    """``manifest.json``: every file with its hash, and how it was made."""

    schema_version: Literal[2] = 2
    name: str
    created: str
    tools: dict[str, str]
    files: tuple[FileRecord, ...]

    def graph(self, graph: Graph, precision: Precision = "fp32") -> FileRecord | None:
        """The ONNX file of a graph in a precision, where there is one; preprocess and decide have fp32 alone."""
        for record in self.files:
            if record.kind == "onnx" and record.graph == graph and record.precision == precision:
                return record
        return None

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


class Bundle:
    """A bundle whose every file has the hash that its manifest gives."""

    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        card: Card,
        sha256: str,
        *,
        builder: "Builder | None" = None,
        signature: Signature | None = None,
        is_signature_checked: bool = False,
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.card = card
        #: Hash of ``manifest.json``: names this exact bundle.
        self.sha256 = sha256
        #: Makes the network of a card whose family is ``own``; only the user gives it, never the bundle.
        self.builder = builder
        #: What stands in ``manifest.sig``: a claim, unless the bundle was opened with a key, which checked it.
        self.signature = signature
        self.is_signature_checked = is_signature_checked

    @property
    def has_code(self) -> bool:
        """Whether torch can build the network: it is of this project, or the user named its code."""
        return self.builder is not None or not self.card.network.is_own

    @classmethod
    def open(cls, path: Path, *, builder: "Builder | None" = None, key: "PublicKey | None" = None) -> Self:
        """Read a bundle and check every hash.

        Args:
            builder: the code of the user's own network, for a card that says so.
            key: whose signature the manifest must carry, checked before anything else is believed; None asks for none.

        Raises:
            UsageError: there is no bundle at ``path``.
            RefusedError: the signature is not that of ``key``, the manifest is not valid, or a file is missing, was
                added, or does not have its hash.
        """
        file = path / MANIFEST
        if not file.is_file():
            raise UsageError(f"no bundle at {path}: expected a folder with {MANIFEST}, as `coronanet export` writes it")
        text = file.read_bytes()
        signature = read_signature(path)
        if key is not None:
            key.check(text, signature, origin=path)
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise RefusedError(
                f"{file} is not a valid manifest: {explain(error)}: {REMEDY}", page="corrupted-file"
            ) from None
        _check_files(path, manifest)
        card = Card.load(path / CARD)
        if manifest.name != card.task:
            raise RefusedError(
                f"{path} says it is {manifest.name}, its card says {card.task}: {REMEDY}", page="corrupted-file"
            )
        sha256 = hashlib.sha256(text).hexdigest()
        return cls(
            path, manifest, card, sha256, builder=builder, signature=signature, is_signature_checked=key is not None
        )

    def with_manifest(self, manifest: Manifest) -> Self:
        """The same bundle in the making, with more in its manifest."""
        return type(self)(self.path, manifest, self.card, self.sha256, builder=self.builder)

    def file(self, record: FileRecord) -> Path:
        return self.path / record.path

    def require(self, graph: Graph, precision: Precision = "fp32") -> FileRecord:
        """The file of a graph in a precision.

        Raises:
            UsageError: the bundle has no such file.
        """
        record = self.manifest.graph(graph, precision)
        if record is None:
            raise UsageError(
                f"{self.path} has no {precision} {graph}: export it with `coronanet export --{precision}`"
                if precision != "fp32"
                else f"{self.path} has no {graph}.onnx: export it again with `coronanet export`"
            )
        return record


def _check_files(path: Path, manifest: Manifest) -> None:
    listed = {record.path: record for record in manifest.files}
    if len(listed) < len(manifest.files):
        raise RefusedError(f"{path / MANIFEST} lists a file twice: {REMEDY}", page="corrupted-file")
    for name, record in listed.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise RefusedError(
                f"{path / MANIFEST} names a file outside the bundle, {name}: {REMEDY}", page="corrupted-file"
            )
        file = path / name
        if not file.is_file():
            raise RefusedError(f"{file} is missing from the bundle: {REMEDY}", page="corrupted-file")
        if file.stat().st_size != record.bytes or hash_file(file) != record.sha256:
            raise RefusedError(
                f"{file} was changed after export (its hash is not the manifest's): {REMEDY}", page="corrupted-file"
            )
    if CARD not in listed:
        raise RefusedError(f"{path / MANIFEST} does not list {CARD}: {REMEDY}", page="corrupted-file")
    there = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    if extra := sorted(there - listed.keys() - {MANIFEST, SIGNATURE}):
        raise RefusedError(f"{path / extra[0]} is not in the manifest: remove it, or {REMEDY}", page="corrupted-file")


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def publish(path: Path) -> Generator[Path]:
    """A temporary folder that takes the name ``path`` when the block ends well, and vanishes when it does not.

    A folder that already has the name is replaced.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        work.chmod(0o755)
        yield work
        replaced = None
        if path.exists():
            replaced = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
            os.rename(path, replaced / path.name)
        try:
            os.rename(work, path)
        except OSError:
            if replaced is not None:
                os.rename(replaced / path.name, path)
            raise
        finally:
            if replaced is not None:
                shutil.rmtree(replaced)
    finally:
        shutil.rmtree(work, ignore_errors=True)
