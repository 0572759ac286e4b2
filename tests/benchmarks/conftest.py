"""Engines whose behaviour is known, so that what the harness says about them can be checked."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from coronanet.benchmarks.load import Block, Load
from coronanet.benchmarks.protocol import EngineCase, InputRecord, LoadCase, Method, Protocol, observe
from coronanet.benchmarks.report import EngineReport, EngineResult, Parity, Skipped, Statistics
from coronanet.benchmarks.serving_report import Agreement, Ratio, ServingReport, load_result
from coronanet.benchmarks.timing import NS_PER_MS, NS_PER_S, Plan, Samples, WarmUp, WarmUpRule
from coronanet.benchmarks.waterfall import break_down
from coronanet.benchmarks.waterfall_report import (
    WaterfallCase,
    WaterfallReport,
    WaterfallResult,
    mean_parts,
    reconcile,
    step_records,
    warnings_of,
)
from coronanet.engines.base import EngineBase, Tensors, TensorSpec
from numpy.typing import NDArray

from .known_requests import CLIENT, WAITS_FOR, a_trace

IMAGE = TensorSpec("image", "int16", (-1, -1, -1))
ANSWER = TensorSpec("lung_mask", "uint8", (-1, -1, -1))
DURATIONS = tuple(value * NS_PER_MS for value in (10, 11, 12, 13))


class FakeEngine(EngineBase):
    """Sleeps, then answers zeros; every ``fails_every``-th call fails. Counts what is in flight over all of them.

    ``sleep`` is what it sleeps by.
    """

    lock = threading.Lock()
    running = 0
    most_running = 0

    def __init__(
        self, sleep_s: float = 0.0, *, fails_every: int = 0, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        super().__init__((IMAGE,), (ANSWER,), 8)
        self.sleep_s, self.fails_every, self.sleep = sleep_s, fails_every, sleep
        self.calls = 0
        self.closed = False
        self.threads: set[int] = set()

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        self.calls += 1
        self.threads.add(threading.get_ident())
        with FakeEngine.lock:
            FakeEngine.running += 1
            FakeEngine.most_running = max(FakeEngine.most_running, FakeEngine.running)
        self.sleep(self.sleep_s)
        with FakeEngine.lock:
            FakeEngine.running -= 1
        if self.fails_every and self.calls % self.fails_every == 0:
            raise RuntimeError("planted at 10.1.2.3:8001")
        return {"lung_mask": np.zeros(feeds["image"].shape, np.uint8)}

    def close(self) -> None:
        self.closed = True


class Meeting:
    """What an engine sleeps by until so many calls are in flight at once, but for the first ``settling`` of all."""

    def __init__(self, together: int, *, settling: int) -> None:
        self.together, self.settling = together, settling
        self.calls = 0
        self.lock, self.met = threading.Lock(), threading.Event()

    def __call__(self, _: float) -> None:
        with self.lock:
            self.calls += 1
            # Nobody leaves before they met, so all that came wait.
            if self.calls == self.settling + self.together:
                self.met.set()
            if self.calls <= self.settling:
                return
        self.met.wait(10)


@pytest.fixture
def meeting() -> type[Meeting]:
    return Meeting


@pytest.fixture
def fake_engine() -> Callable[..., Any]:
    FakeEngine.running = FakeEngine.most_running = 0
    return FakeEngine


@pytest.fixture
def feeds() -> dict[str, NDArray[np.int16]]:
    return {"image": np.zeros((1, 8, 8), np.int16)}


@pytest.fixture
def method() -> Method:
    return Method(
        verb="bench engines",
        measures="a call",
        transfers="none",
        order="in turns",
        input=InputRecord(description="zeros", dtype="int16", shape=(8, 8), slices=1, sha256="00", step="none"),
        warm_up=WarmUpRule(),
        plan=Plan(repeats=10, limit_s=1.0),
    )


@pytest.fixture
def protocol(method: Method) -> Protocol:
    """Of this machine, as if nothing else had run on it."""
    seen = observe(method, {})
    return seen.model_copy(update={"moment": seen.moment.model_copy(update={"busy_share": 0.0})})


@pytest.fixture
def engine_case() -> EngineCase:
    return EngineCase(task="lung_segmentation", backend="onnxruntime", precision="fp16", batch=1, threads=None)


@pytest.fixture
def load_case() -> LoadCase:
    return LoadCase(target="served", model="coronanet", concurrency=2, batch=1, threads=None, engines={})


@pytest.fixture
def engines(protocol: Protocol, engine_case: EngineCase) -> EngineReport:
    samples = Samples(DURATIONS)
    result = EngineResult(
        case=engine_case,
        protocol_sha256=protocol.sha256(engine_case),
        file_bytes=2_100_000,
        parity=Parity(label_agreement=0.999_999_9, verdict="passed", source="this machine"),
        chosen=True,
        warm_up_ns=(99, 98),
        rounds_ns=(DURATIONS,),
        statistics=Statistics.of(samples),
        noise_floor=None,
        warnings=samples.warnings,
    )
    skipped = Skipped(what="lung_segmentation openvino bf16", reason="this CPU has no bfloat16 arithmetic")
    return EngineReport(protocol=protocol, results=(result,), skipped=(skipped,))


@pytest.fixture
def serving(protocol: Protocol, load_case: LoadCase) -> ServingReport:
    block = Block(DURATIONS, ("RuntimeError: refused by 10.1.2.3:8001",), NS_PER_S)
    local = load_case.model_copy(update={"target": "in_process", "threads": 1})
    warm = WarmUp((1, 2), stable=True)
    return ServingReport(
        protocol=protocol,
        results=(
            load_result(load_case, protocol, warm, Load((block, block), 2), conceal="10.1.2.3:8001"),
            load_result(local, protocol, warm, Load((Block(DURATIONS, (), NS_PER_S // 2),), 2)),
        ),
        agreement=(Agreement(output="lung_mask", equal_share=0.5, max_difference=None),),
        ratios=(
            Ratio(
                model="coronanet",
                concurrency=2,
                quantity="throughput",
                against="in process",
                median=0.91,
                lowest=0.85,
                highest=0.97,
            ),
        ),
    )


@pytest.fixture
def waterfall(protocol: Protocol) -> WaterfallReport:
    """Requests whose every moment is known, taken apart at two concurrencies."""
    method = protocol.method.model_copy(update={"verb": "bench waterfall"})
    breakdowns = [break_down(CLIENT, a_trace(), WAITS_FOR, one_clock=True)] * 20
    sums, steps = reconcile(breakdowns, 20, one_clock=True), step_records(breakdowns, traced={}, counted={})
    whole = Samples(tuple(each.whole_ns for each in breakdowns))
    results = [
        WaterfallResult(
            case=WaterfallCase(model="coronanet", concurrency=concurrency, batch=1),
            protocol_sha256="00",
            whole_ns=whole.durations_ns,
            statistics=Statistics.of(whole),
            mean_ms=whole.mean_ms,
            parts=mean_parts(breakdowns),
            steps=steps,
            reconciliation=sums,
            tax=None,
            errors={},
            warnings=warnings_of(steps, sums),
        )
        for concurrency in (1, 4)
    ]
    return WaterfallReport(protocol=protocol.model_copy(update={"method": method}), results=tuple(results))
