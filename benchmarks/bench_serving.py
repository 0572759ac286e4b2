"""`bench serving`: models of a running server under load, and the same chain in this process, in the same run."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine, Tensors
from ..engines.bundle import Bundle
from ..engines.machine import available_cores
from ..engines.predictor import Choice, LocalEnsemble
from ..model.errors import UsageError
from ..model.tasks import ENSEMBLE, TaskName
from .bench_rates import Auto, RateTarget, measure_rates
from .inputs import describe, feeds_for
from .limits import Point, closed_knee, open_knee, within_budget
from .load import Block, Load, LoadPlan, Streams
from .perf_analyzer import PerfAnalyzer
from .protocol import LoadCase, Method, observe
from .serving_report import (
    Agreement,
    Budget,
    Limits,
    LoadResult,
    RateResult,
    Ratio,
    ServingReport,
    load_result,
    percentile_ms,
    rate_result,
)
from .timing import Call, WarmUp, WarmUpRule, rounds, warm_up


class Source(Protocol):
    """What puts load on a target: streams of this process, or another program."""

    @property
    def concurrency(self) -> int: ...
    def run(self, requests: int, limit_s: float) -> Block: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


@dataclass(frozen=True)
class LoadTarget:
    """What is put under load: the case, how each of its streams gets its engine, and what no report may name.

    ``driver``, where given, makes what asks in place of streams of this process, from what every request sends.
    """

    case: LoadCase
    open_engine: Callable[[], Engine]
    address: str | None = None
    driver: Callable[[Tensors], Source] | None = None

    def load(self, feeds: Tensors) -> Source:
        return self.driver(feeds) if self.driver else Streams(self.open_engine, self.case.concurrency, feeds)


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


def analyzer_targets(program: Path, targets: Sequence[LoadTarget]) -> list[LoadTarget]:
    """The same as the ``targets`` that are served, asked by NVIDIA's `perf_analyzer`."""

    def driver(address: str, case: LoadCase) -> Callable[[Tensors], Source]:
        return lambda feeds: PerfAnalyzer(program, address, case.model, case.concurrency, feeds)

    return [
        replace(
            target,
            case=target.case.model_copy(update={"target": "perf_analyzer"}),
            driver=driver(target.address, target.case),
        )
        for target in targets
        if target.address is not None
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
    rates: Sequence[float] | Auto = (),
    budget: Budget | None = None,
    advance: Callable[[str], object] | None = None,
) -> ServingReport:
    """Load all targets in turns, and compare what they answer; then every served model at every rate.

    Args:
        image: int16 HU ``[Z, H, W]``; a request carries its first ``batch`` slices.
        bundles: those that run in this process, for the record.
        rates: requests a second, sent in an open loop as ``plan.arrivals`` says; "auto" takes shares of what the
            closed loops came to, and with a budget looks for the highest rate within it.
        advance: told what comes next, before every warm-up and every round.

    Raises:
        UsageError: a target cannot be reached, or refuses the very first request.
    """
    tell = advance or (lambda _: None)
    protocol = observe(_method(image, plan, rule), bundles)
    sent = image[np.arange(batch) % len(image)]
    answers, feeds = _first_answers(targets, sent)
    blocks, warm = _closed_loops(targets, feeds, plan, rule, tell)
    loads = [Load(tuple(own), target.case.concurrency, batch) for own, target in zip(blocks, targets, strict=True)]
    results = tuple(
        load_result(target.case, protocol, warmed, load, conceal=target.address)
        for target, warmed, load in zip(targets, warm, loads, strict=True)
    )
    opened: list[RateResult] = []
    for target in _one_a_model(targets) if rates else ():
        peak = max(_throughput(result) for result in results if _is_served(result.case, target.case.model)) / batch
        if peak or rates != "auto":
            asked = RateTarget(target.case.model, target.open_engine, feeds[target.case.model], batch, peak)
            opened += [
                rate_result(case, protocol, load, conceal=target.address)
                for case, load in measure_rates(asked, rates, plan, budget, tell)
            ]
    return ServingReport(
        protocol=protocol,
        budget=budget,
        results=results,
        rates=tuple(opened),
        limits=limits_of(results, opened, budget),
        agreement=_agreement(answers),
        ratios=_ratios([target.case for target in targets], loads),
    )


def limits_of(results: Sequence[LoadResult], rates: Sequence[RateResult], budget: Budget | None) -> tuple[Limits, ...]:
    """What the sweeps of every served model came to, closed loops first."""
    percentile = budget.percentile if budget else 99
    found: list[Limits] = []
    for model in dict.fromkeys(result.case.model for result in results if result.case.target == "served"):
        streams = [
            Point(
                result.case.concurrency,
                result.statistics.throughput_per_s,
                percentile_ms(result.statistics, percentile),
                not result.errors,
            )
            for result in results
            if _is_served(result.case, model) and result.statistics
        ]
        # A rate at which nothing was answered is as bad as any; one at which nothing was asked says nothing.
        asked = [
            Point(
                rate.case.rate_per_s,
                rate.statistics.throughput_per_s if rate.statistics else 0.0,
                percentile_ms(rate.statistics, percentile) if rate.statistics else math.inf,
                rate.kept_up,
            )
            for rate in rates
            if rate.case.model == model and rate.requests
        ]
        if streams:
            found.append(_limits(model, "closed", streams, closed_knee(streams), budget))
        if asked:
            found.append(_limits(model, "open", asked, open_knee(asked), budget))
    return tuple(found)


def _limits(
    model: str, loop: Literal["closed", "open"], points: Sequence[Point], knee: Point | None, budget: Budget | None
) -> Limits:
    best = within_budget(points, budget.latency_ms) if budget else None
    return Limits(
        model=model,
        loop=loop,
        peak_per_s=max(point.throughput_per_s for point in points),
        knee=knee and knee.load,
        knee_per_s=knee and knee.throughput_per_s,
        knee_ms=knee and knee.latency_ms,
        best=best and best.load,
        best_per_s=best and best.throughput_per_s,
        best_ms=best and best.latency_ms,
    )


def _closed_loops(
    targets: Sequence[LoadTarget],
    feeds: Mapping[str, Tensors],
    plan: LoadPlan,
    rule: WarmUpRule,
    tell: Callable[[str], object],
) -> tuple[list[list[Block]], list[WarmUp]]:
    """The bursts and the warm-up of every target."""
    limit_s = plan.limit_s / (plan.rounds * len(targets))
    blocks: list[list[Block]] = [[] for _ in targets]
    warm: list[WarmUp] = []
    with ExitStack() as stack:
        sources = [stack.enter_context(target.load(feeds[target.case.model])) for target in targets]
        for target, source in zip(targets, sources, strict=True):
            tell(f"warm-up {label(target.case)}")
            warm.append(warm_up(_burst(source, source.concurrency, limit_s), rule))
        for number, order in enumerate(rounds(range(len(targets)), plan.rounds, plan.limit_s)):
            tell(f"round {number + 1} of {plan.rounds}")
            for index in order:
                burst = plan.burst(sources[index].concurrency)
                blocks[index].append(sources[index].run(burst, limit_s))
    return blocks, warm


def _one_a_model(targets: Sequence[LoadTarget]) -> list[LoadTarget]:
    """The first served target of every model."""
    served = [target for target in targets if target.case.target == "served"]
    return list({target.case.model: target for target in reversed(served)}.values())[::-1]


def _is_served(case: LoadCase, model: str) -> bool:
    return case.target == "served" and case.model == model


def _throughput(result: LoadResult) -> float:
    return result.statistics.throughput_per_s if result.statistics else 0.0


def label(case: LoadCase) -> str:
    """A target in a few words."""
    if case.target == "in_process":
        return f"in process, {_count(case.concurrency, 'stream')} x {_count(case.threads or 1, 'thread')}"
    who = "served" if case.target == "served" else "perf_analyzer"
    step = "" if case.model == ENSEMBLE else f"{case.model} "
    return f"{step}{who}, concurrency {case.concurrency}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _chain(bundles: Mapping[TaskName, Bundle], choices: Mapping[TaskName, Choice]) -> Callable[[], Engine]:
    return lambda: LocalEnsemble(bundles, choices)


def _burst(source: Source, requests: int, limit_s: float) -> Call:
    return lambda: source.run(requests, limit_s)


def _first_answers(
    targets: Sequence[LoadTarget], image: NDArray[np.int16]
) -> tuple[dict[str, dict[str, NDArray[Any]]], dict[str, Tensors]]:
    """What the served ensemble and the chain in process answer, by target, and what every model is fed."""
    answers: dict[str, dict[str, NDArray[Any]]] = {}
    feeds: dict[str, Tensors] = {}
    for target in targets:
        model, kind = target.case.model, target.case.target
        if kind == "perf_analyzer" or (model in feeds and (model != ENSEMBLE or kind in answers)):
            continue
        with target.open_engine() as engine:
            if len(image) > engine.max_batch:
                raise UsageError(
                    f"{model} takes at most {engine.max_batch} slices a request, "
                    f"got {len(image)}: pass a smaller --batch"
                )
            if model not in feeds:
                feeds[model] = feeds_for(engine, image)
            answer = engine.infer(feeds[model])
            if model == ENSEMBLE:
                answers[kind] = answer
    return answers, feeds


def _agreement(answers: Mapping[str, Mapping[str, NDArray[Any]]]) -> tuple[Agreement, ...]:
    if not {"served", "in_process"} <= answers.keys():
        return ()
    served, local = answers["served"], answers["in_process"]
    return tuple(_compare(name, served[name], local[name]) for name in sorted(served.keys() & local.keys()))


def _compare(name: str, one: NDArray[Any], other: NDArray[Any]) -> Agreement:
    if one.dtype == np.uint8:
        return Agreement(output=name, equal_share=float(np.mean(one == other)), max_difference=None)
    return Agreement(output=name, equal_share=None, max_difference=float(np.max(np.abs(one - other))))


def _ratios(cases: Sequence[LoadCase], loads: Sequence[Load]) -> tuple[Ratio, ...]:
    """Every served target against the best in process, and against perf_analyzer where that asked the same.

    Round by round, so that a disturbance meets both.
    """
    local = [index for index, case in enumerate(cases) if case.target == "in_process"]
    best = max(local, key=lambda index: loads[index].throughput_per_s, default=None)
    found: list[Ratio | None] = []
    for index, case in enumerate(cases):
        if case.target != "served":
            continue
        if best is not None and case.model == ENSEMBLE:
            found.append(_ratio(case, "throughput", label(cases[best]), loads[index], loads[best]))
        twin = case.model_copy(update={"target": "perf_analyzer"})
        if twin in cases:
            other = loads[cases.index(twin)]
            found += [_ratio(case, quantity, label(twin), loads[index], other) for quantity in ("throughput", "p50")]
    return tuple(ratio for ratio in found if ratio)


def _ratio(
    case: LoadCase, quantity: Literal["throughput", "p50"], against: str, one: Load, other: Load
) -> Ratio | None:
    def measure(block: Block) -> float:
        return block.throughput_per_s(1) if quantity == "throughput" else statistics.median(block.latencies_ns)

    pairs = zip(one.blocks, other.blocks, strict=True)
    shares = [measure(ours) / measure(its) for ours, its in pairs if ours.latencies_ns and its.latencies_ns]
    if not shares:
        return None
    return Ratio(
        model=case.model,
        concurrency=case.concurrency,
        quantity=quantity,
        against=against,
        median=statistics.median(shares),
        lowest=min(shares),
        highest=max(shares),
    )


def _method(image: NDArray[np.int16], plan: LoadPlan, rule: WarmUpRule) -> Method:
    return Method(
        verb="bench serving",
        measures=(
            "one synchronous request as its caller sees it, the next one at once when it is answered; in an open loop "
            "from the moment that the schedule meant it to leave"
        ),
        transfers="arrays of the client's process in and out; for a server the wire counted, the connection kept open",
        order="targets in turns, every round one burst of each, uncounted requests before it; then rates in turns",
        input=describe(image, "a step that takes no image gets seeded normal noise"),
        warm_up=rule,
        plan=plan,
    )
