"""Which engine and precision is the fastest on this machine, of those that the gates let through.

A difference of less than ``FLOOR`` is none (decision 24): of ways that are as fast, the most exact is taken, so that
nobody pays with precision for what the next measurement may not find again.

Measured, recorded in the user's cache under the bundle's hash and the machine's fingerprint, and read from there; a
bundle never changes for it.
"""

import hashlib
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ValidationError

from ..model.card import StrictModel
from ..model.errors import UsageError
from ..model.tasks import TaskName
from .base import DYNAMIC, Engine
from .bundle import Bundle, Evidence, Gate, Precision, Verdict
from .load_errors import first_line
from .machine import installed_version, observe_machine
from .non_inferiority import MARGIN, judge, margin_of
from .open import GPU_BACKENDS, PRECISIONS, Backend, file_precision, is_installed
from .own_slices import slices_at_hand
from .parity import Reference, compare
from .places import cache_home
from .plans import plans_of
from .predictor import Choice, Predictor, reference_of
from .slices import GateSlices, phantom_slices

#: How much faster, as a share, a way must be to be called faster.
FLOOR = 0.02
#: From the most exact precision to the least.
EXACTNESS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")
WARM_UP = 3
ROUNDS = 12
LEAST_ROUNDS = 3
TOO_SLOW = 2


class Ranked(StrictModel):
    """One way to run a network on this machine: may it decide, and how fast is it?

    It may where parity passed and, in a reduced precision, non-inferiority too. ``latency_ms`` is the median of one
    slice through the network alone, measured in turn with the others; None where it did not pass. ``evidence`` is None
    where it could not be opened, ``non_inferiority`` where parity said no or nothing is reduced.
    """

    backend: Backend
    precision: Precision
    verdict: Verdict
    reason: str
    latency_ms: float | None
    evidence: Evidence | None
    non_inferiority: Gate | None

    @property
    def choice(self) -> Choice:
        return Choice(self.backend, self.precision)


class Ranking(StrictModel):
    """Every way that was tried, as ``best_first`` orders them.

    ``real`` is false where the gates looked at the phantom: no reduced precision is among those that passed then.
    """

    schema_version: Literal[2] = 2
    bundle_sha256: str
    machine: dict[str, str]
    real: bool = True
    ways: tuple[Ranked, ...]

    @property
    def best(self) -> Choice:
        """The fastest way that passed; the most exact of those that are as fast.

        Raises:
            UsageError: none did.
        """
        if choices := passed_best_first(self.ways):
            return choices[0]
        tried = "; ".join(f"{way.choice}: {way.reason}" for way in self.ways) or "no engine is installed"
        raise UsageError(
            f"no engine passed the gates on this machine ({tried}): pip install 'coronanet[cpu]'", page="gate-refused"
        )


def candidates(bundle: Bundle) -> list[Choice]:
    """Every backend and precision that serves here and that the bundle has a file for; torch is the reference only."""

    def has_file(backend: Backend, precision: Precision) -> bool:
        if backend == "tensorrt":
            return bool(plans_of(bundle.manifest, precision))
        return bundle.manifest.graph("network", file_precision(backend, precision)) is not None

    return [
        Choice(backend, precision)
        for backend, precisions in PRECISIONS.items()
        if backend != "torch" and is_installed(backend)
        for precision in precisions
        if has_file(backend, precision)
    ]


def choose(
    bundles: Mapping[TaskName, Bundle], *, data: Path | None = None, progress: Callable[[str], None] | None = None
) -> dict[TaskName, Choice]:
    """The best way that passed on this machine for each bundle, measured now where no record is there, or one of
    the phantom's and real slices are.

    Args:
        data: where the slices of the gates are, as in ``own_slices.slices_at_hand``.
        progress: told the name of each bundle that is being measured.

    Raises:
        UsageError: nothing that passes is installed.
    """
    chosen: dict[TaskName, Choice] = {}
    for name, bundle in bundles.items():
        ranking = read_ranking(bundle)
        if ranking is None or not ranking.real:
            real = slices_at_hand(data, name)
            if ranking is None or real is not None:
                if progress:
                    progress(name)
                ranking = rank(bundle, real or phantom_slices(), margin=margin_of(bundle.manifest))
                write_ranking(ranking)
        chosen[name] = ranking.best
    return chosen


def rank(bundle: Bundle, slices: GateSlices, *, margin: float = MARGIN) -> Ranking:
    """Hold every candidate against the reference and the truth, and time those that pass, in turn.

    The reference is what ``reference_of`` says.
    """
    reference = reference_of(bundle)
    with Predictor.open(bundle, reference) as predictor:
        truth = Reference.of(predictor, bundle.card, slices, name=str(reference))
    ways = measure(bundle, truth, margin=margin)
    return Ranking(bundle_sha256=bundle.sha256, machine=machine(), real=slices.real, ways=ways)


def measure(
    bundle: Bundle, reference: Reference, *, margin: float, known: Mapping[Choice, Ranked] | None = None
) -> tuple[Ranked, ...]:
    """Every way to run the bundle here, as ``best_first`` orders them.

    Args:
        margin: how much Dice or AUC a reduced precision may lose.
        known: ways that were held against this reference on this machine already; they are only timed.
    """
    ways: list[Ranked] = []
    with ExitStack() as stack:
        passed: dict[Choice, Engine] = {}
        for choice in candidates(bundle):
            try:
                predictor = stack.enter_context(Predictor.open(bundle, choice))
                way = (known or {}).get(choice) or examine(choice, reference, predictor, margin=margin)
            except Exception as error:  # a runtime that fails raises what it likes, and the others go on
                ways.append(_way(choice, "not_run", first_line(error), None, None))
                continue
            if way.verdict == "passed":
                passed[choice] = predictor.network
            ways.append(way)
        latency, failed = _time_in_turn(passed)
    timed = [
        way.model_copy(update={"verdict": "not_run", "reason": failed[way.choice]})
        if way.choice in failed
        else way.model_copy(update={"latency_ms": latency.get(way.choice)})
        for way in ways
    ]
    return best_first(timed)


def best_first(ways: Iterable[Ranked]) -> tuple[Ranked, ...]:
    """The ways by speed, those that did not pass last.

    Those than which the fastest is not faster by ``FLOOR`` lead, the most exact before the others.
    """
    ways = list(ways)
    fastest = min((way.latency_ms for way in ways if way.verdict == "passed" and way.latency_ms), default=0.0)

    def place(way: Ranked) -> tuple[bool, bool, int, float]:
        ms = way.latency_ms or 0.0
        slower = fastest < (1 - FLOOR) * ms
        return way.verdict != "passed", slower, 0 if slower else EXACTNESS.index(way.precision), ms

    return tuple(sorted(ways, key=place))


def passed_best_first(ways: Iterable[Ranked]) -> tuple[Choice, ...]:
    """The ways that passed, as ``best_first`` orders them."""
    return tuple(way.choice for way in best_first(ways) if way.verdict == "passed")


def examine(choice: Choice, reference: Reference, predictor: Predictor, *, margin: float) -> Ranked:
    """One way under the gates of parity and, in a reduced precision, of non-inferiority; not timed."""
    comparison = compare("network", reference, predictor, choice.precision)
    evidence = comparison.evidence
    if evidence.verdict != "passed" or choice.precision == "fp32":
        return _way(choice, evidence.verdict, evidence.reason, evidence, None)
    gate = judge(reference, comparison.decisions, margin)
    return _way(choice, gate.verdict, gate.reason, evidence, gate)


def _way(choice: Choice, verdict: Verdict, reason: str, evidence: Evidence | None, gate: Gate | None) -> Ranked:
    return Ranked(
        backend=choice.backend,
        precision=choice.precision,
        verdict=verdict,
        reason=reason,
        latency_ms=None,
        evidence=evidence,
        non_inferiority=gate,
    )


def worth_it(ways: Sequence[Ranked], precision: Precision) -> Gate:
    """Whether an ONNX file of a reduced precision is what this CPU would be given: it is faster than the best way
    without it by ``FLOOR``, or as fast as a less exact one."""
    passed = best_first(way for way in ways if way.latency_ms is not None and way.backend not in GPU_BACKENDS)
    own = next((way for way in passed if _uses(way, precision)), None)
    other = next((way for way in passed if not _uses(way, precision)), None)
    if own is None or other is None or own.latency_ms is None or other.latency_ms is None:
        return Gate(gate="worth_it", verdict="not_run", reason="no way to run it passed the other gates here")
    figures = {"ms": own.latency_ms, "ms_without": other.latency_ms, "speedup": other.latency_ms / own.latency_ms}
    # As `best_first` would choose: what is called worth it here is what is run here.
    if own is passed[0]:
        return Gate(gate="worth_it", verdict="passed", reason="", figures=figures)
    took = f"{own.choice} takes {own.latency_ms:.1f} ms here, {other.choice} {other.latency_ms:.1f} ms"
    reason = f"{took}: not faster by {100 * FLOOR:.0f} %, so not selected"
    return Gate(gate="worth_it", verdict="refused", reason=reason, figures=figures)


def _uses(way: Ranked, precision: Precision) -> bool:
    return file_precision(way.backend, way.precision) == precision


def _time_in_turn(engines: Mapping[Choice, Engine]) -> tuple[dict[Choice, float], dict[Choice, str]]:
    """Median milliseconds of one slice, and why those failed that did; in turn, so that a machine that slows down slows
    all of them, each turn from another one on, so that none is always the first.

    Those that take more than ``TOO_SLOW`` times as long as the fastest are timed in the first rounds only.
    """
    samples: dict[Choice, list[float]] = {choice: [] for choice in engines}
    failed: dict[Choice, str] = {}
    rng = np.random.default_rng(0)
    order = deque(engines.items())
    for turn in range(WARM_UP + ROUNDS):
        best = min((min(times) for times in samples.values() if times), default=np.inf)
        order.rotate(-1)
        for choice, engine in order:
            if choice in failed or (len(samples[choice]) >= LEAST_ROUNDS and min(samples[choice]) > TOO_SLOW * best):
                continue
            spec = engine.inputs[0]
            shape = [1 if size == DYNAMIC else size for size in spec.shape]
            feeds = {spec.name: rng.normal(0, 1, shape).astype(spec.dtype)}
            start = time.perf_counter()
            try:
                engine.infer(feeds)
            except Exception as error:  # as where it is examined
                failed[choice] = first_line(error)
                continue
            if turn >= WARM_UP:
                samples[choice].append((time.perf_counter() - start) * 1e3)
    return {choice: float(np.median(times)) for choice, times in samples.items() if choice not in failed}, failed


@cache
def _machine() -> tuple[tuple[str, str], ...]:
    seen = observe_machine()
    names = ("numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "torch", "cuda-python")
    found = {name: version for name in names if (version := installed_version(name)) is not None}
    of_cpu = {"cpu": seen.cpu, "cpu_features": " ".join(seen.cpu_features), "cores": str(seen.cores)}
    return tuple({**of_cpu, **({"gpus": "; ".join(seen.gpus)} if seen.gpus else {}), **found}.items())


def machine() -> dict[str, str]:
    """What a speed depends on: processor, cores, GPUs with drivers, and the versions of what runs networks."""
    return dict(_machine())


def ranking_path(bundle_sha256: str) -> Path:
    fingerprint = hashlib.sha256(json.dumps(machine(), sort_keys=True).encode()).hexdigest()
    return cache_home() / "rankings" / f"{bundle_sha256[:16]}-{fingerprint[:16]}.json"


def read_ranking(bundle: Bundle) -> Ranking | None:
    """The record of this bundle on this machine, None where there is none, it cannot be read, or its best is no way to
    run the bundle any more."""
    path = ranking_path(bundle.sha256)
    if not path.is_file():
        return None
    try:
        ranking = Ranking.model_validate_json(path.read_bytes())
    except ValidationError:
        return None
    if ranking.bundle_sha256 != bundle.sha256 or ranking.machine != machine():
        return None
    choices = passed_best_first(ranking.ways)
    return ranking if not choices or choices[0] in candidates(bundle) else None


def forget_ranking(bundle: Bundle) -> None:
    """Measure this bundle anew the next time, since something about it was found out."""
    ranking_path(bundle.sha256).unlink(missing_ok=True)


def write_ranking(ranking: Ranking) -> None:
    path = ranking_path(ranking.bundle_sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as work:
        work.write(ranking.model_dump_json(indent=2) + "\n")
    Path(work.name).replace(path)
