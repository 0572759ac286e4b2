"""One record for what one way to run a network took, and for a peer."""

from ..engines.base import Engine
from ..engines.bundle import Bundle
from ..engines.cuda_engine import CudaEngine
from ..engines.open import file_precision
from ..engines.predictor import Choice
from ..engines.ranking import Ranking
from ..model.tasks import TaskName
from .noise import noise_floor
from .peers import Peer
from .protocol import EngineCase, PeerCase, Protocol
from .report import EngineResult, Parity, PeerResult, Statistics
from .timing import Rounds, WarmUp
from .ways import Way


def case_of(name: TaskName, way: Way, batch: int, engine: Engine) -> EngineCase:
    choice = way.choice
    return EngineCase(
        task=name,
        backend=choice.backend,
        precision=choice.precision,
        batch=batch,
        threads=choice.threads,
        graphs=engine.replays_graphs if isinstance(engine, CudaEngine) else way.graphs,
    )


def parity_of(bundle: Bundle, choice: Choice, ranking: Ranking | None) -> Parity | None:
    """What is known of how a network decides: from this machine's ranking, else from export's evidence for its file.

    Parity alone: whether a reduced precision may be chosen is for non-inferiority too, which has not run without real
    slices. Export's evidence is of ONNX Runtime and says nothing about another backend. None where nothing is known.
    """
    if choice.backend == "torch":
        return Parity(label_agreement=1.0, verdict="passed", source="reference")
    for way in ranking.ways if ranking else ():
        if (way.backend, way.precision) == (choice.backend, choice.precision):
            found = way.evidence
            if found is None:
                return Parity(label_agreement=None, verdict=way.verdict, source="this machine")
            return Parity(label_agreement=found.label_agreement, verdict=found.verdict, source="this machine")
    evidence = bundle.require("network", file_precision(choice.backend, choice.precision)).evidence
    if choice.backend != "onnxruntime" or evidence is None:
        return None
    return Parity(label_agreement=evidence.label_agreement, verdict=evidence.verdict, source="export")


def is_chosen(choice: Choice, ranking: Ranking | None) -> bool:
    """Is this the way that `auto` takes: the fastest that passed?"""
    passed = [way for way in ranking.ways if way.verdict == "passed"] if ranking else []
    return bool(passed) and (passed[0].backend, passed[0].precision) == (choice.backend, choice.precision)


def engine_result(
    bundle: Bundle, case: EngineCase, protocol: Protocol, *, warm: WarmUp, rounds: Rounds, ranking: Ranking | None
) -> EngineResult:
    samples, choice = rounds.samples, Choice(case.backend, case.precision, case.threads)
    return EngineResult(
        case=case,
        protocol_sha256=protocol.sha256(case),
        file_bytes=bundle.require("network", file_precision(choice.backend, choice.precision)).bytes,
        parity=parity_of(bundle, choice, ranking),
        chosen=is_chosen(choice, ranking),
        warm_up_ns=warm.durations_ns,
        rounds_ns=rounds.rounds_ns,
        statistics=Statistics.of(samples),
        noise_floor=noise_floor(rounds.rounds_ns),
        warnings=warm.warnings + samples.warnings,
    )


def peer_result(
    case: PeerCase, protocol: Protocol, peer: Peer, *, warm: WarmUp, rounds: Rounds, difference: float | None
) -> PeerResult:
    """``difference`` is of its logits from those of the reference."""
    return PeerResult(
        case=case,
        protocol_sha256=protocol.sha256(case),
        description=peer.description,
        max_difference=difference,
        warm_up_ns=warm.durations_ns,
        rounds_ns=rounds.rounds_ns,
        statistics=Statistics.of(rounds.samples),
        noise_floor=noise_floor(rounds.rounds_ns),
        warnings=warm.warnings + rounds.samples.warnings,
    )
