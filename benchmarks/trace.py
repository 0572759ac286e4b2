"""Triton's trace of requests (``--trace-config triton,file=…``), read into spans.

A file is a JSON list in which a span comes in pieces that share its ``id``: one names the model and, within an
ensemble, the span of the ensemble as ``parent_id``; the others carry time stamps. Stamps are nanoseconds of the
server's monotonic clock, on one machine the same clock as Python's `time.perf_counter_ns`.
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/trace.html
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, TypeAdapter, ValidationError

from ..model.card import explain
from ..model.errors import UsageError

#: Traces beyond this size were not left by one measurement.
MOST_BYTES = 256 * 2**20


@dataclass
class Span:
    """One model's part of one request; ``stamps_ns`` by Triton's own names, such as ``QUEUE_START``."""

    model: str = ""
    request_id: str = ""
    parent: int | None = None
    stamps_ns: dict[str, int] = field(default_factory=dict)

    def between(self, first: str, last: str) -> int:
        """Nanoseconds from one stamp to another."""
        return self.stamps_ns[last] - self.stamps_ns[first]


@dataclass(frozen=True)
class RequestTrace:
    """One request: the span of the model that was asked for, and those of an ensemble's steps by model."""

    whole: Span
    steps: dict[str, Span]


class _Stamp(BaseModel):
    name: str
    ns: int


class _Piece(BaseModel):
    id: int
    model_name: str | None = None
    request_id: str = ""
    parent_id: int | None = None
    timestamps: list[_Stamp] = []


_PIECES = TypeAdapter(list[_Piece])


def read_traces(files: Iterable[Path], model: str) -> dict[str, RequestTrace]:
    """The requests of ``model`` by their request id; those without one are left out.

    Raises:
        UsageError: a file is missing, far too large, or not such a trace.
    """
    spans: dict[int, Span] = {}
    for file in files:
        for piece in _read(file):
            span = spans.setdefault(piece.id, Span())
            if piece.model_name is not None:
                span.model, span.request_id, span.parent = piece.model_name, piece.request_id, piece.parent_id
            span.stamps_ns.update({stamp.name: stamp.ns for stamp in piece.timestamps})
    steps: dict[int, dict[str, Span]] = {}
    for span in spans.values():
        if span.parent is not None:
            steps.setdefault(span.parent, {})[span.model] = span
    return {
        span.request_id: RequestTrace(span, steps.get(number, {}))
        for number, span in spans.items()
        if span.model == model and span.parent is None and span.request_id
    }


def _read(file: Path) -> list[_Piece]:
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UsageError(f"{file} is larger than {MOST_BYTES // 2**20} MiB: expected the trace of one measurement")
        return _PIECES.validate_python(json.loads(file.read_bytes()))
    except OSError as error:
        raise UsageError(f"cannot read the server's trace {file}: {error.strerror}") from None
    except ValueError as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error)
        raise UsageError(f"{file} is not a trace of a Triton server: {reason.partition('; ')[0]}") from None
