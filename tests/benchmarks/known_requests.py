"""A request to an ensemble with two branches whose every moment is known."""

from coronanet.benchmarks.trace import RequestTrace, Span
from coronanet.benchmarks.waterfall import ORDER, ClientSpan

MS = 1_000_000
WAITS_FOR = {"preprocess": [], "a": ["preprocess"], "b": ["preprocess"], "decide": ["b"]}


def step(start: float, queue: float, copy_in: float, compute: float, copy_out: float) -> Span:
    """A step asked for at ``start`` ms, that waits a tenth before it is in the queue."""
    stamps = [start, start + 0.1]
    for taken in (queue, copy_in, compute, copy_out):
        stamps.append(stamps[-1] + taken)
    return Span(stamps_ns={name: round(at * MS) for name, at in zip(ORDER, stamps, strict=True)})


def a_trace() -> RequestTrace:
    """Two branches behind one step: ``b`` is the slow one, and its decision ends the request."""
    whole = Span(
        "coronanet", "r1", None, {"GRPC_WAITREAD_END": 3 * MS, "REQUEST_START": 4 * MS, "GRPC_SEND_START": 60 * MS}
    )
    return RequestTrace(
        whole,
        {
            "preprocess": step(4.5, 0.5, 0.4, 5, 0.5),
            # Asked for before Triton calls preprocessing ended: its answer left first.
            "a": step(10.8, 1, 0.4, 10, 0.5),
            "b": step(10.8, 2, 0.4, 40, 0.5),
            "decide": step(54.0, 0.3, 0.2, 4, 0.6),
        },
    )


CLIENT = ClientSpan("r1", 0, 1 * MS, 62 * MS, 64 * MS)
