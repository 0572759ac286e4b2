"""`bench serving`: a running server under closed-loop load, and the same chain in this process, in the same run."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine, Tensors
from ..engines.bundle import Bundle
from ..engines.machine import available_cores
from ..engines.predictor import Choice, LocalEnsemble
from ..model.errors import UsageError
from ..model.tasks import TaskName
from .inputs import describe, feeds_for
from .load import Block, Load, LoadPlan, Streams
from .protocol import LoadCase, Method, observe
from .serving_report import Agreement, Ratio, ServingReport, load_result
from .timing import Call, WarmUp, WarmUpRule, rounds, warm_up

ENSEMBLE = "coronanet"


@dataclass(frozen=True)
class LoadTarget:
    """What is put under load: the case, how each of its streams gets its engine, and what no report may name."""

    case: LoadCase
    open_engine: Callable[[], Engine]
    address: str | None = None


def served_targets(
    address: str, open_client: Callable[[], Engine], model: str, concurrencies: Sequence[int], *, batch: int
) -> list[LoadTarget]:
    """A model of a running server at every concurrency; each stream has a client of its own."""
    return [
        LoadTarget(
            LoadCase(target="served", model=model, concurrency=streams, batch=batch, threads=None, engines={}),
            open_client,
            address,
        )
        for streams in concurrencies
    ]


def in_process_targets(
    bundles: Mapping[TaskName, Bundle], choices: Mapping[TaskName, Choice], *, batch: int
) -> list[LoadTarget]:
    """The same chain in this process: all cores on one stream, and the cores shared by two."""
    cores = available_cores()
    targets: list[LoadTarget] = []
    for streams in (1, 2):
        threads = max(1, cores // streams)
        own: dict[TaskName, Choice] = {name: replace(choices[name], threads=threads) for name in bundles}
        case = LoadCase(
            target="in_process",
            model=ENSEMBLE,
            concurrency=streams,
            batch=batch,
            threads=threads,
            engines={name: str(choice) for name, choice in own.items()},
        )
        targets.append(LoadTarget(case, _chain(bundles, own)))
    return targets


def measure_serving(
    targets: Sequence[LoadTarget],
    image: NDArray[np.int16],
    *,
    batch: int,
    bundles: Mapping[TaskName, Bundle],
    plan: LoadPlan,
    rule: WarmUpRule,
    advance: Callable[[str], object] | None = None,
) -> ServingReport:
    """Load all targets in turns, and compare what they answer.

    Args:
        image: int16 HU ``[Z, H, W]``; a request carries its first ``batch`` slices.
        bundles: those that run in this process, for the record.
        advance: told what comes next, before every warm-up and every round.

    Raises:
        UsageError: a target cannot be reached, or refuses the very first request.
    """
    tell = advance or (lambda _: None)
    protocol = observe(_method(image, plan, rule), bundles)
    with ExitStack() as stack:
        answers, feeds = _first_answers(targets, image[np.arange(batch) % len(image)])
        streams = [
            stack.enter_context(Streams(target.open_engine, target.case.concurrency, feeds)) for target in targets
        ]
        limit_s = plan.limit_s / (plan.rounds * len(targets))
        warm: list[WarmUp] = []
        for target, own in zip(targets, streams, strict=True):
            tell(f"warm-up {label(target.case)}")
            warm.append(warm_up(_burst(own, own.concurrency, limit_s), rule))
        blocks: list[list[Block]] = [[] for _ in targets]
        for number, order in enumerate(rounds(range(len(targets)), plan.rounds, plan.limit_s)):
            tell(f"round {number + 1} of {plan.rounds}")
            for index in order:
                burst = plan.burst(streams[index].concurrency)
                blocks[index].append(streams[index].run(burst, limit_s))
    loads = [Load(tuple(own), target.case.concurrency, batch) for own, target in zip(blocks, targets, strict=True)]
    return ServingReport(
        protocol=protocol,
        results=tuple(
            load_result(target.case, protocol, warmed, load, conceal=target.address)
            for target, warmed, load in zip(targets, warm, loads, strict=True)
        ),
        agreement=_agreement(targets, answers),
        ratios=_ratios([target.case for target in targets], loads),
    )


def label(case: LoadCase) -> str:
    """A target in a few words."""
    if case.target == "served":
        return f"served, concurrency {case.concurrency}"
    return f"in process, {_count(case.concurrency, 'stream')} x {_count(case.threads or 1, 'thread')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _chain(bundles: Mapping[TaskName, Bundle], choices: Mapping[TaskName, Choice]) -> Callable[[], Engine]:
    return lambda: LocalEnsemble(bundles, choices)


def _burst(streams: Streams, requests: int, limit_s: float) -> Call:
    return lambda: streams.run(requests, limit_s)


def _first_answers(
    targets: Sequence[LoadTarget], image: NDArray[np.int16]
) -> tuple[dict[str, dict[str, NDArray[Any]]], Tensors]:
    """One answer of the server and one of the chain in process, and what they were fed."""
    answers: dict[str, dict[str, NDArray[Any]]] = {}
    feeds: Tensors = {}
    for target in targets:
        if target.case.target in answers:
            continue
        with target.open_engine() as engine:
            if len(image) > engine.max_batch:
                raise UsageError(
                    f"{target.case.model} takes at most {engine.max_batch} slices a request, "
                    f"got {len(image)}: pass a smaller --batch"
                )
            feeds = feeds or feeds_for(engine, image)
            answers[target.case.target] = engine.infer(feeds)
    return answers, feeds


def _agreement(
    targets: Sequence[LoadTarget], answers: Mapping[str, Mapping[str, NDArray[Any]]]
) -> tuple[Agreement, ...]:
    if {target.case.target for target in targets} != {"served", "in_process"}:
        return ()
    served, local = answers["served"], answers["in_process"]
    return tuple(_compare(name, served[name], local[name]) for name in sorted(served.keys() & local.keys()))


def _compare(name: str, one: NDArray[Any], other: NDArray[Any]) -> Agreement:
    if one.dtype == np.uint8:
        return Agreement(output=name, equal_share=float(np.mean(one == other)), max_difference=None)
    return Agreement(output=name, equal_share=None, max_difference=float(np.max(np.abs(one - other))))


def _ratios(cases: Sequence[LoadCase], loads: Sequence[Load]) -> tuple[Ratio, ...]:
    """Every served target against the best in process, round by round, so that a disturbance meets both."""
    local = [index for index, case in enumerate(cases) if case.target == "in_process"]
    if not local:
        return ()
    best = max(local, key=lambda index: loads[index].throughput_per_s)
    found: list[Ratio] = []
    for index, case in enumerate(cases):
        if case.target != "served":
            continue
        pairs = zip(loads[index].blocks, loads[best].blocks, strict=True)
        shares = [one.throughput_per_s(1) / other.throughput_per_s(1) for one, other in pairs if other.latencies_ns]
        if shares:
            found.append(
                Ratio(
                    concurrency=case.concurrency,
                    against=label(cases[best]),
                    median=statistics.median(shares),
                    lowest=min(shares),
                    highest=max(shares),
                )
            )
    return tuple(found)


def _method(image: NDArray[np.int16], plan: LoadPlan, rule: WarmUpRule) -> Method:
    return Method(
        verb="bench serving",
        measures="one synchronous request as its caller sees it, the next one at once when it is answered",
        transfers="arrays of the client's process in and out; for a server the wire counted, the connection kept open",
        order="targets in turns, every round one burst of each, an uncounted request of every stream before it",
        input=describe(image, "a step that takes no image gets seeded normal noise"),
        warm_up=rule,
        plan=plan,
    )
