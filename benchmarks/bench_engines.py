"""`bench engines`: every network on every backend, in every precision and batch size, measured against each other."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine
from ..engines.bundle import Bundle, Precision
from ..engines.open import BACKENDS, PRECISIONS, Backend, file_precision, is_installed, open_engine
from ..engines.predictor import Choice
from ..engines.ranking import Ranking
from ..model.errors import CoronanetError, UsageError
from ..model.tasks import TaskName
from .inputs import batch_of, describe
from .noise import noise_floor
from .protocol import EngineCase, Method, Protocol, observe
from .report import EngineReport, EngineResult, Parity, Skipped, Statistics, Yardstick
from .timing import Call, Plan, Rounds, WarmUp, WarmUpRule, interleave, warm_up
from .yardstick import DESCRIPTION, make_yardstick

Opener = Callable[[Bundle, Choice], Engine]


def candidates(backends: Sequence[Backend], precisions: Sequence[Precision], threads: int | None) -> list[Choice]:
    """Every combination of the two that exists."""
    return [
        Choice(backend, precision, threads)
        for backend in BACKENDS
        for precision in PRECISIONS[backend]
        if backend in backends and precision in precisions
    ]


def measure_engines(
    bundles: Mapping[TaskName, Bundle],
    choices: Sequence[Choice],
    batches: Sequence[int],
    image: NDArray[np.int16],
    *,
    plan: Plan,
    rule: WarmUpRule,
    rankings: Mapping[TaskName, Ranking] | None = None,
    opener: Opener | None = None,
    advance: Callable[[str], object] | None = None,
) -> EngineReport:
    """Measure the network of every bundle in every way; what cannot run is skipped and listed with the reason.

    Args:
        image: what the networks see, int16 HU ``[Z, H, W]``, through the bundle's own preprocessing.
        rankings: what export found out about each network on this machine, for the report.
        opener: opens the network of a bundle; `open_engine` unless a test plants another.
        advance: told what comes next before every group of candidates that are measured in turns.

    Raises:
        UsageError: nothing at all could be measured; the message has the reasons.
    """
    protocol = observe(_method(image, plan, rule), bundles)
    results: list[EngineResult] = []
    yardsticks: list[Yardstick] = []
    skipped: list[Skipped] = []
    for name, bundle in bundles.items():
        ranking = (rankings or {}).get(name)
        with ExitStack() as stack:
            opened = _open(bundle, choices, skipped, stack, opener or _open_network)
            for batch in batches:
                fitting = _fitting(name, opened, batch, skipped)
                if not fitting:
                    continue
                if advance is not None:
                    advance(f"{name}, batch {batch}")
                pixels = _pixels(bundle, batch_of(image, batch))
                calls: dict[Choice | None, Call] = {choice: _call(engine, pixels) for choice, engine in fitting.items()}
                warm = {choice: warm_up(call, rule) for choice, call in calls.items()}
                calls[None] = make_yardstick()
                taken = interleave(calls, plan, items=batch)
                yardsticks.append(Yardstick(task=name, batch=batch, rounds_ns=taken[None].rounds_ns))
                results += [
                    _result(bundle, choice, protocol, warm=warm[choice], rounds=taken[choice], ranking=ranking)
                    for choice in fitting
                ]
    if not results:
        reasons = "; ".join(f"{item.what}: {item.reason}" for item in skipped)
        raise UsageError(f"nothing to measure: {reasons or 'no such combination of backend and precision exists'}")
    return EngineReport(protocol=protocol, results=tuple(results), yardsticks=tuple(yardsticks), skipped=tuple(skipped))


def parity_of(bundle: Bundle, choice: Choice, ranking: Ranking | None) -> Parity | None:
    """What is known of how a network decides: from this machine's ranking, else from export's evidence for its file.

    Export's evidence is of ONNX Runtime and says nothing about another backend. None where nothing is known.
    """
    if choice.backend == "torch":
        return Parity(label_agreement=1.0, verdict="passed", source="reference")
    for way in ranking.ways if ranking else ():
        if (way.backend, way.precision) == (choice.backend, choice.precision):
            agreement = way.evidence.label_agreement if way.evidence else None
            return Parity(label_agreement=agreement, verdict=way.verdict, source="this machine")
    evidence = bundle.require("network", file_precision(choice.backend, choice.precision)).evidence
    if choice.backend != "onnxruntime" or evidence is None:
        return None
    return Parity(label_agreement=evidence.label_agreement, verdict=evidence.verdict, source="export")


def is_chosen(choice: Choice, ranking: Ranking | None) -> bool:
    """Is this the way that `auto` takes: the fastest that passed?"""
    passed = [way for way in ranking.ways if way.verdict == "passed"] if ranking else []
    return bool(passed) and (passed[0].backend, passed[0].precision) == (choice.backend, choice.precision)


def _result(
    bundle: Bundle, choice: Choice, protocol: Protocol, *, warm: WarmUp, rounds: Rounds, ranking: Ranking | None
) -> EngineResult:
    samples = rounds.samples
    case = EngineCase(
        task=bundle.card.task,
        backend=choice.backend,
        precision=choice.precision,
        batch=samples.items,
        threads=choice.threads,
    )
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


def _open(
    bundle: Bundle, choices: Sequence[Choice], skipped: list[Skipped], stack: ExitStack, opener: Opener
) -> dict[Choice, Engine]:
    opened: dict[Choice, Engine] = {}
    for choice in choices:
        what = f"{bundle.card.task} {choice}"
        if choice.backend == "torch" and choice.threads is not None:
            skipped.append(Skipped(what=what, reason="torch takes its threads from the process: leave --threads out"))
            continue
        try:
            opened[choice] = stack.enter_context(opener(bundle, choice))
        except CoronanetError as error:
            # A report names no folder of this machine.
            skipped.append(Skipped(what=what, reason=str(error).replace(str(bundle.path), bundle.path.name)))
    return opened


def _fitting(
    name: TaskName, opened: Mapping[Choice, Engine], batch: int, skipped: list[Skipped]
) -> dict[Choice, Engine]:
    """The engines that take such a batch; the others are noted as skipped."""
    skipped += [
        Skipped(what=f"{name} {choice} batch {batch}", reason=f"the graph takes a batch of at most {engine.max_batch}")
        for choice, engine in opened.items()
        if engine.max_batch < batch
    ]
    return {choice: engine for choice, engine in opened.items() if engine.max_batch >= batch}


def _open_network(bundle: Bundle, choice: Choice) -> Engine:
    return open_engine(bundle, backend=choice.backend, precision=choice.precision, threads=choice.threads)


def _pixels(bundle: Bundle, image: NDArray[np.int16]) -> NDArray[np.float32]:
    """``image`` through the bundle's preprocessing, a slice at a time, so that its largest batch does not matter."""
    backend: Backend = "onnxruntime" if is_installed("onnxruntime") else "torch"
    with open_engine(bundle, graph="preprocess", backend=backend) as preprocess:
        parts = [preprocess.infer({"image": part[None]})["pixels"] for part in image]
    return np.ascontiguousarray(np.concatenate(parts))


def _call(engine: Engine, pixels: NDArray[np.float32]) -> Call:
    feeds = {engine.inputs[0].name: pixels}
    return lambda: engine.infer(feeds)


def _method(image: NDArray[np.int16], plan: Plan, rule: WarmUpRule) -> Method:
    return Method(
        verb="bench engines",
        measures="one synchronous infer() of the network alone: preprocessing and decision left out",
        transfers="arrays of this process in and out; copies to and from the engine counted",
        order="all ways to run a task and batch in turns, and a yardstick with them; in a turn one call that is not "
        f"counted, then a block that is. Yardstick: {DESCRIPTION}",
        input=describe(image, "through the bundle's own preprocessing"),
        warm_up=rule,
        plan=plan,
    )
