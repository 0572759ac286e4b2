"""The gates of an export: evidence and verdicts for every graph of a bundle."""

from collections.abc import Mapping

from ..engines.bundle import Bundle, FileRecord, Gate, Manifest, Precision
from ..engines.non_inferiority import MARGIN, judge, margin_of
from ..engines.parity import Reference, compare
from ..engines.predictor import Choice, Predictor, reference_of
from ..engines.ranking import Ranked
from ..engines.slices import GateSlices
from .census import take_census
from .plan_parity import prove_plans
from .ranges import preflight

#: Where the files of a bundle are held against the reference: on the backend that reads every one of them.
BACKEND = "onnxruntime"


def refer(bundle: Bundle, slices: GateSlices) -> Reference:
    """What the reference of a bundle (``predictor.reference_of``) makes of the slices; its two ends run on torch."""
    choice = reference_of(bundle)
    with Predictor.open(bundle, choice, edge="torch") as predictor:
        return Reference.of(predictor, bundle.card, slices, name=str(choice))


def prove(
    bundle: Bundle,
    reference: Reference,
    *,
    kept: Mapping[Precision, tuple[str, ...]],
    ranges: Mapping[Precision, Gate],
    margin: float = MARGIN,
) -> Manifest:
    """The bundle's manifest with fresh evidence for every file that runs on this machine, against torch: the ONNX
    files on ONNX Runtime, the plans on their GPU.

    Where the network's code is not at hand, its float32 file is the reference and keeps the evidence that it has.

    Args:
        kept: for each precision the nodes that may stay in float32.
        ranges: the verdicts of the range gate, which is passed before a file is made.
    """
    choice = reference_of(bundle)
    proved: list[FileRecord] = []
    plans = prove_plans(bundle, reference, margin=margin)
    for record in bundle.manifest.files:
        is_reference = choice.backend != "torch" and record == bundle.require("network", choice.precision)
        if record.kind != "onnx" or record.graph is None or record.precision is None or is_reference:
            proved.append(plans.get(record.path, record))
            continue
        precision = record.precision
        with Predictor.open(bundle, Choice(BACKEND, precision)) as candidate:
            comparison = compare(record.graph, reference, candidate, precision)
        gates: list[Gate] = []
        if record.graph == "network":
            gates.append(take_census(bundle.file(record), precision, kept=kept.get(precision, ())))
            gates += [ranges[precision]] if precision in ranges else []
            if precision != "fp32":
                gates.append(judge(reference, comparison.decisions, margin))
        proved.append(record.model_copy(update={"evidence": comparison.evidence, "gates": tuple(gates)}))
    return bundle.manifest.model_copy(update={"files": tuple(proved)})


def prove_again(bundle: Bundle, slices: GateSlices) -> Manifest:
    """``prove`` for a bundle that was published: what was kept and the margin stand in its manifest."""
    kept: dict[Precision, tuple[str, ...]] = {}
    ranges: dict[Precision, Gate] = {}
    reference = refer(bundle, slices)
    for record in bundle.manifest.files:
        for gate in record.gates if record.kind == "onnx" else ():
            if record.precision and gate.gate == "precision":
                kept[record.precision] = gate.nodes
            if record.precision and gate.gate == "range":
                found = preflight(bundle.file(bundle.require("network")), reference)
                ranges[record.precision] = _hold_ranges(found, gate.nodes)
    margin = margin_of(bundle.manifest)
    return prove(bundle, reference, kept=kept, ranges=ranges, margin=margin)


def _hold_ranges(found: Gate, kept: tuple[str, ...]) -> Gate:
    """The range gate's verdict on a file that is there, by what was found now and what it keeps in float32."""
    lost = [node for node in found.nodes if node not in kept]
    if found.verdict != "passed" or not lost:
        return found
    reason = f"float16 cannot hold what {', '.join(lost)} see here, and the file does not keep them in float32"
    return found.model_copy(update={"verdict": "refused", "reason": reason})


def known_ways(manifest: Manifest) -> dict[Choice, Ranked]:
    """The ways that ``prove`` has held against the reference already."""
    ways: dict[Choice, Ranked] = {}
    for record in manifest.files:
        if record.graph == "network" and record.kind == "onnx" and record.precision and record.evidence:
            judged = next((gate for gate in record.gates if gate.gate == "non_inferiority"), None)
            verdict = judged.verdict if judged and record.evidence.verdict == "passed" else record.evidence.verdict
            ways[Choice(BACKEND, record.precision)] = Ranked(
                backend=BACKEND,
                precision=record.precision,
                verdict=verdict,
                reason=record.evidence.reason or (judged.reason if judged else ""),
                latency_ms=None,
                evidence=record.evidence,
                non_inferiority=judged,
            )
    return ways
