"""Where the time of one request to a Triton ensemble goes, from its trace and the clock of the client.

The steps of an ensemble run side by side where they can, so their times do not add up to the request's. What adds up is
the **critical path**: from the step that was done last back through the one it waited for, and so on to the first. On
it every moment of a request belongs to exactly one part; what a step does off it costs nobody anything.

A step's answer leaves while its output is still being copied and its request taken apart, so the next step starts
before Triton calls this one ended: on the path a step lasts until the next one is asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .timing import NS_PER_MS
from .trace import RequestTrace, Span

#: Parts in the order in which a request passes through them; those of steps come between `receive` and `respond`.
ENCODE, WIRE_OUT, RECEIVE = "client: arrays to message", "wire: request", "server: receive"
QUEUE, COPY, HAND_OVER = "queue", "copies between processes", "hand-over between steps"
RESPOND, WIRE_BACK, DECODE = "server: respond", "wire: response", "client: message to arrays"
#: Stamps that every span has, in order.
ORDER = ("REQUEST_START", "QUEUE_START", "COMPUTE_START", "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END")
RECEIVED, SENDING = "GRPC_WAITREAD_END", "GRPC_SEND_START"
#: What two readings of one clock, on two cores, may differ by.
CLOCK_SLACK_NS = 50_000


@dataclass(frozen=True)
class ClientSpan:
    """One request as its caller saw it, in nanoseconds of the caller's monotonic clock.

    Attributes:
        start_ns: arrays in hand.
        sent_ns: the message is made and handed to gRPC.
        received_ns: gRPC handed the answer back.
        end_ns: arrays in hand.
    """

    request_id: str
    start_ns: int
    sent_ns: int
    received_ns: int
    end_ns: int

    @property
    def whole_ns(self) -> int:
        return self.end_ns - self.start_ns


@dataclass(frozen=True)
class StepTimes:
    """One step of one request in nanoseconds: how long after the request's start it was asked for, and what it did."""

    asked_ns: int
    queue_ns: int
    input_ns: int
    compute_ns: int
    output_ns: int
    on_path: bool


@dataclass(frozen=True)
class Breakdown:
    """One request taken apart: ``parts`` in nanoseconds, in order, none negative; ``steps`` by model."""

    whole_ns: int
    parts: Mapping[str, int]
    steps: Mapping[str, StepTimes]

    @property
    def accounted_ns(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class StepStatistics:
    """Triton's own counters of one model over a stretch of time: requests that succeeded, and what they took."""

    count: int
    queue_ns: int
    input_ns: int
    compute_ns: int
    output_ns: int

    @property
    def mean_ms(self) -> float:
        """Queue, copies and computing of one request."""
        return (self.queue_ns + self.input_ns + self.compute_ns + self.output_ns) / self.count / NS_PER_MS

    def __sub__(self, earlier: "StepStatistics") -> "StepStatistics":
        return StepStatistics(
            self.count - earlier.count,
            self.queue_ns - earlier.queue_ns,
            self.input_ns - earlier.input_ns,
            self.compute_ns - earlier.compute_ns,
            self.output_ns - earlier.output_ns,
        )

    def __add__(self, other: "StepStatistics") -> "StepStatistics":
        return StepStatistics(
            self.count + other.count,
            self.queue_ns + other.queue_ns,
            self.input_ns + other.input_ns,
            self.compute_ns + other.compute_ns,
            self.output_ns + other.output_ns,
        )


def share_a_clock(pairs: Sequence[tuple[ClientSpan, RequestTrace]]) -> bool:
    """Whether client and server read one clock: no request came in before it left, no answer came before it left."""
    return all(
        client.sent_ns - CLOCK_SLACK_NS <= trace.whole.stamps_ns[RECEIVED]
        and trace.whole.stamps_ns[SENDING] <= client.received_ns + CLOCK_SLACK_NS
        for client, trace in pairs
    )


def is_complete(trace: RequestTrace) -> bool:
    """Whether every stamp is there that a breakdown needs."""
    spans = list(trace.steps.values()) or [trace.whole]
    return {RECEIVED, SENDING, "REQUEST_START"} <= trace.whole.stamps_ns.keys() and all(
        set(ORDER) <= span.stamps_ns.keys() for span in spans
    )


def critical_path(steps: Mapping[str, Span], waits_for: Mapping[str, Sequence[str]]) -> list[str]:
    """The steps that the end of a request waited for, first to last.

    Args:
        waits_for: for every step those whose outputs it reads.
    """

    def done(name: str) -> int:
        return steps[name].stamps_ns["COMPUTE_OUTPUT_START"]

    path: list[str] = []
    ahead = list(steps)
    while ahead:
        path.append(max(ahead, key=done))
        ahead = [name for name in waits_for.get(path[-1], ()) if name in steps]
    return path[::-1]


def break_down(
    client: ClientSpan, trace: RequestTrace, waits_for: Mapping[str, Sequence[str]], *, one_clock: bool
) -> Breakdown:
    """Take one request apart.

    Args:
        trace: complete, see `is_complete`.
        waits_for: as for `critical_path`.
        one_clock: whether the client's stamps and the server's are of one clock. Where they are not, the wire is what
            is left of the client's time, and stands under ``WIRE_OUT`` whole.
    """
    whole = trace.whole.stamps_ns
    steps = trace.steps or {trace.whole.model: trace.whole}
    path = critical_path(steps, waits_for)
    parts = {ENCODE: client.sent_ns - client.start_ns}
    if one_clock:
        parts[WIRE_OUT] = whole[RECEIVED] - client.sent_ns
    else:
        parts[WIRE_OUT] = client.received_ns - client.sent_ns - trace.whole.between(RECEIVED, SENDING)
    parts[RECEIVE] = whole["REQUEST_START"] - whole[RECEIVED]
    parts |= dict.fromkeys((QUEUE, *path, COPY, HAND_OVER), 0)
    before_ns = whole["REQUEST_START"]
    for name, after in zip(path, [*path[1:], None], strict=True):
        span = steps[name]
        stamps = span.stamps_ns
        left_ns = steps[after].stamps_ns["REQUEST_START"] if after else whole[SENDING]
        copied_ns = min(stamps["COMPUTE_END"], left_ns)
        parts[HAND_OVER] += stamps["QUEUE_START"] - before_ns
        parts[QUEUE] += span.between("QUEUE_START", "COMPUTE_START")
        parts[COPY] += span.between("COMPUTE_START", "COMPUTE_INPUT_END")
        parts[name] = span.between("COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START")
        parts[COPY] += copied_ns - stamps["COMPUTE_OUTPUT_START"]
        before_ns = copied_ns
    parts[RESPOND] = whole[SENDING] - before_ns
    if one_clock:
        parts[WIRE_BACK] = client.received_ns - whole[SENDING]
    parts[DECODE] = client.end_ns - client.received_ns
    # What seems to take less than no time was seen out of order: it must not make good for what is missing elsewhere.
    kept = {name: max(0, taken_ns) for name, taken_ns in parts.items()}
    return Breakdown(
        client.whole_ns,
        kept,
        {name: _step(span, client, trace, on_path=name in path, one_clock=one_clock) for name, span in steps.items()},
    )


def _step(span: Span, client: ClientSpan, trace: RequestTrace, *, on_path: bool, one_clock: bool) -> StepTimes:
    stamps = span.stamps_ns
    if one_clock:
        asked_ns = stamps["REQUEST_START"] - client.start_ns
    else:
        # The wire's two ways are taken to be equally long: all that can be said from two clocks.
        wire_ns = client.received_ns - client.sent_ns - trace.whole.between(RECEIVED, SENDING)
        before_ns = client.sent_ns - client.start_ns + wire_ns // 2
        asked_ns = before_ns + stamps["REQUEST_START"] - trace.whole.stamps_ns[RECEIVED]
    return StepTimes(
        asked_ns=asked_ns,
        queue_ns=span.between("QUEUE_START", "COMPUTE_START"),
        input_ns=span.between("COMPUTE_START", "COMPUTE_INPUT_END"),
        compute_ns=span.between("COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START"),
        output_ns=span.between("COMPUTE_OUTPUT_START", "COMPUTE_END"),
        on_path=on_path,
    )
