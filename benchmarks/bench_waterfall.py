"""`bench waterfall`: requests to a running server taken apart, beside the same chain in this process."""

import glob
import secrets
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from ..engines.base import Tensors
from ..engines.bundle import Bundle
from ..engines.triton_connection import Connection, as_connection
from ..engines.triton_engine import TritonEngine
from ..engines.triton_wire import failure
from ..model.errors import UsageError
from ..model.tasks import TaskName
from .bench_serving import LoadTarget, label
from .inputs import batch_of, describe, feeds_for
from .load import Block, Load, LoadPlan, Streams
from .protocol import Method, Protocol, observe
from .report import Statistics
from .serving_report import conceal_address
from .timing import NS_PER_MS, Samples, WarmUpRule, warm_up
from .trace import RequestTrace, read_traces
from .triton_admin import TritonAdmin
from .waterfall import ClientSpan, StepStatistics, break_down, is_complete, share_a_clock
from .waterfall_report import (
    Tax,
    WaterfallCase,
    WaterfallReport,
    WaterfallResult,
    mean_parts,
    reconcile,
    step_records,
    warnings_of,
)

#: How long the last traces are waited for, in seconds.
PATIENCE_S = 3.0
NOTHING = StepStatistics(0, 0, 0, 0, 0)


class Probe(TritonEngine):
    """A served model that notes when each request passed from hand to hand in this process."""

    def __init__(self, server: str | Connection, *, model: str, timeout_s: float) -> None:
        super().__init__(server, model=model, timeout_s=timeout_s)
        # What a trace of yesterday in the same folder cannot have.
        self._name = secrets.token_hex(6)
        self._number = count()
        self.spans: list[ClientSpan] = []

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        start_ns = time.perf_counter_ns()
        request = self._model.request(feeds)
        request.id = f"{self._name}-{next(self._number)}"
        sent_ns = time.perf_counter_ns()
        try:
            response = self._model_infer(request, timeout=self._timeout_s, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise failure(error, self._connection, self._model.name, self._timeout_s) from None
        received_ns = time.perf_counter_ns()
        answer = self._model.answer(response, self.address)
        self.spans.append(ClientSpan(request.id, start_ns, sent_ns, received_ns, time.perf_counter_ns()))
        return answer


def measure_waterfall(
    server: str | Connection,
    concurrencies: Sequence[int],
    image: NDArray[np.int16],
    *,
    model: str,
    batch: int,
    local: Sequence[LoadTarget],
    bundles: Mapping[TaskName, Bundle],
    plan: LoadPlan,
    rule: WarmUpRule,
    timeout_s: float,
    trace_file: Path | None = None,
    advance: Callable[[str], object] | None = None,
) -> WaterfallReport:
    """Take requests apart at every concurrency; every round has a burst untraced, one in process and one traced.

    Args:
        server: ``HOST:PORT`` of its gRPC endpoint, or a connection with TLS or keys.
        image: int16 HU ``[Z, H, W]``; a request carries its first ``batch`` slices.
        local: the same chain in this process, one target a number of streams; where none has as many, there is no tax.
        trace_file: where the server's trace is seen from here, where that is not what the server calls it.
        advance: told what comes next.

    Raises:
        UsageError: the server cannot be reached, has no trace, or its trace cannot be read from here.
    """
    tell = advance or (lambda _: None)
    protocol = observe(_method(image, plan, rule), bundles)
    sent = batch_of(image, batch)
    results: list[WaterfallResult] = []

    def open_probe() -> Probe:
        return Probe(server, model=model, timeout_s=timeout_s)

    with TritonAdmin(server, timeout_s=timeout_s) as admin:
        told = admin.trace_file()
        if told is None:
            raise UsageError(
                f"the Triton server at {as_connection(server).address} was started without a trace: start it with "
                "`coronanet serve --trace FILE` (NVIDIA's container: --trace-config triton,file=FILE, and no `trace` "
                "in its two options that restrict)"
            )
        file = trace_file or told
        waits_for = admin.waits_for(model)
        for concurrency in concurrencies:
            tell(f"concurrency {concurrency}")
            case = WaterfallCase(model=model, concurrency=concurrency, batch=batch)
            same = next((target for target in local if target.case.concurrency == concurrency), None)
            run = _Run(admin, case, open_probe, same, plan, rule)
            results.append(run.result(sent, protocol, waits_for, file))
    return WaterfallReport(protocol=protocol, results=tuple(results))


@dataclass(frozen=True)
class _Bursts:
    """What one concurrency came to: bursts with and without a trace, and the client's spans of those that count."""

    spans: list[ClientSpan]
    traced: list[Block]
    untraced: list[Block]
    in_process: list[Block]
    counted: dict[str, StepStatistics]

    @property
    def load(self) -> Load:
        """All that was sent."""
        return Load((*self.traced, *self.untraced, *self.in_process), 1)


@dataclass(frozen=True)
class _Run:
    """The measurement at one concurrency."""

    admin: TritonAdmin
    case: WaterfallCase
    open_probe: Callable[[], Probe]
    local: LoadTarget | None
    plan: LoadPlan
    rule: WarmUpRule

    def bursts(self, image: NDArray[np.int16]) -> _Bursts:
        """All rounds: without a trace, in process, with a trace."""
        found = _Bursts([], [], [], [], {})
        probes: list[Probe] = []

        def open_probe() -> Probe:
            probes.append(self.open_probe())
            return probes[-1]

        limit_s = self.plan.limit_s / (3 * self.plan.rounds)
        with ExitStack() as stack:
            with self.open_probe() as first:
                feeds = feeds_for(first, image)
            served = stack.enter_context(Streams(open_probe, self.case.concurrency, feeds))
            local = stack.enter_context(self.local.load(feeds)) if self.local else None
            for source in (served, local):
                if source:
                    warm_up(partial(source.run, source.concurrency, limit_s), self.rule)
            requests = self.plan.burst(self.case.concurrency)
            for _ in range(self.plan.rounds):
                found.untraced.append(served.run(requests, limit_s))
                if local:
                    found.in_process.append(local.run(self.plan.burst(local.concurrency), limit_s))
                earlier, marks = self.admin.statistics(), [len(probe.spans) for probe in probes]
                self.admin.trace(self.case.model, on=True)
                try:
                    found.traced.append(served.run(requests, limit_s))
                finally:
                    self.admin.trace(self.case.model, on=False)
                # The first request of every stream in a burst is not counted.
                for probe, mark in zip(probes, marks, strict=True):
                    found.spans.extend(probe.spans[mark + 1 :])
                for name, now in self.admin.statistics().items():
                    spent = now - earlier.get(name, NOTHING)
                    found.counted[name] = found.counted.get(name, NOTHING) + spent
        return found

    def result(
        self, image: NDArray[np.int16], protocol: Protocol, waits_for: Mapping[str, Sequence[str]], file: Path
    ) -> WaterfallResult:
        before = _trace_files(file)
        bursts = self.bursts(image)
        load = bursts.load
        if not bursts.spans:
            failures = "; ".join(load.errors) or "none was sent"
            raise UsageError(f"expected answers at concurrency {self.case.concurrency}, found none: {failures}")
        traces = _await_traces(file, before, self.case.model, {span.request_id for span in bursts.spans})
        pairs = [(span, traces[span.request_id]) for span in bursts.spans if span.request_id in traces]
        if not pairs:
            raise UsageError(
                f"the server's trace has none of the requests: expected them in {file}.N, whole; is that file of "
                "this server, on this machine? A container's is named with --trace-file"
            )
        one_clock = share_a_clock(pairs)
        breakdowns = [break_down(span, trace, waits_for, one_clock=one_clock) for span, trace in pairs]
        steps = step_records(breakdowns, traced=_totals(traces), counted=bursts.counted)
        sums = reconcile(breakdowns, len(bursts.spans), one_clock=one_clock)
        errors = conceal_address(load.errors, self.admin.address)
        whole = Samples(tuple(span.whole_ns for span, _ in pairs), self.case.batch)
        return WaterfallResult(
            case=self.case,
            protocol_sha256=protocol.sha256(self.case),
            whole_ns=whole.durations_ns,
            statistics=Statistics.of(whole),
            mean_ms=whole.mean_ms,
            parts=mean_parts(breakdowns),
            steps=steps,
            reconciliation=sums,
            tax=_tax(self.local, bursts),
            errors=errors,
            warnings=(*warnings_of(steps, sums), *_failures(errors, load.requests), *whole.warnings),
        )


def _failures(errors: Mapping[str, int], requests: int) -> tuple[str, ...]:
    if not errors:
        return ()
    return (f"failures: {sum(errors.values())} of {requests} requests, which are in no figure: {'; '.join(errors)}",)


def _tax(local: LoadTarget | None, bursts: _Bursts) -> Tax | None:
    inside = [latency for block in bursts.in_process for latency in block.latencies_ns]
    served = [latency for block in bursts.untraced for latency in block.latencies_ns]
    if local is None or not inside or not served:
        return None
    in_process_ms, untraced_ms = (statistics.median(each) / NS_PER_MS for each in (inside, served))
    return Tax(
        in_process=label(local.case),
        in_process_ms=in_process_ms,
        untraced_ms=untraced_ms,
        tax_ms=untraced_ms - in_process_ms,
        tax_share=untraced_ms / in_process_ms - 1,
    )


def _totals(traces: Mapping[str, RequestTrace]) -> dict[str, StepStatistics]:
    """What Triton's counters ought to say, from the trace."""
    found: dict[str, StepStatistics] = {}
    for trace in traces.values():
        for name, span in (trace.steps or {trace.whole.model: trace.whole}).items():
            own = StepStatistics(
                1,
                span.between("QUEUE_START", "COMPUTE_START"),
                span.between("COMPUTE_START", "COMPUTE_INPUT_END"),
                span.between("COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"),
                span.between("COMPUTE_OUTPUT_START", "COMPUTE_END"),
            )
            found[name] = found.get(name, NOTHING) + own
    return found


def _trace_files(file: Path) -> set[Path]:
    """Every file that the server wrote its trace to: the name that it was given, and a number."""
    return set(file.parent.glob(f"{glob.escape(file.name)}.*"))


def _await_traces(file: Path, before: set[Path], model: str, wanted: set[str]) -> dict[str, RequestTrace]:
    """The whole traces of ``model`` that came since ``before``; Triton ends a trace a little after the answer."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = read_traces(sorted(_trace_files(file) - before), model)
        if wanted <= found.keys() or time.monotonic() > deadline:
            return {request: trace for request, trace in found.items() if is_complete(trace)}
        time.sleep(0.1)


def _method(image: NDArray[np.int16], plan: LoadPlan, rule: WarmUpRule) -> Method:
    return Method(
        verb="bench waterfall",
        measures="one synchronous request as its caller sees it, and Triton's own time stamps of it and of every step",
        transfers="arrays of the client's process in and out, the wire counted, the connection kept open",
        order="every round a burst of served requests without a trace, one in process, one of served requests traced",
        input=describe(image, "a step that takes no image gets seeded normal noise"),
        warm_up=rule,
        plan=plan,
    )
