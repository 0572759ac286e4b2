"""Requests whose every moment is known, taken apart."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from coronanet.benchmarks.trace import read_traces
from coronanet.benchmarks.waterfall import (
    COPY,
    DECODE,
    ENCODE,
    HAND_OVER,
    QUEUE,
    RECEIVE,
    RESPOND,
    WIRE_BACK,
    WIRE_OUT,
    ClientSpan,
    StepStatistics,
    break_down,
    critical_path,
    is_complete,
    share_a_clock,
)
from coronanet.benchmarks.waterfall_report import mean_parts, reconcile, step_records, warnings_of
from coronanet.model.errors import UsageError

from .known_requests import CLIENT, MS, WAITS_FOR, a_trace, step


def test_the_critical_path_is_what_the_end_waited_for() -> None:
    assert critical_path(a_trace().steps, WAITS_FOR) == ["preprocess", "b", "decide"]
    assert critical_path({"classification": step(0, 1, 1, 1, 1)}, {}) == ["classification"]


def test_every_moment_belongs_to_one_part() -> None:
    found = break_down(CLIENT, a_trace(), WAITS_FOR, one_clock=True)
    parts = {name: round(taken / MS, 3) for name, taken in found.parts.items()}
    assert parts == {
        ENCODE: 1.0,
        WIRE_OUT: 2.0,
        RECEIVE: 1.0,
        QUEUE: 0.5 + 2 + 0.3,
        "preprocess": 5.0,
        "b": 40.0,
        "decide": 4.0,
        # Preprocessing's copy out only until the next step was asked for.
        COPY: pytest.approx(0.4 + 0.3 + 0.4 + 0.5 + 0.2 + 0.6),
        HAND_OVER: pytest.approx(0.6 + 0.1 + 0.2 + 0.1),
        RESPOND: pytest.approx(60 - 59.2),
        WIRE_BACK: 2.0,
        DECODE: 2.0,
    }
    assert found.accounted_ns == found.whole_ns == 64 * MS
    assert list(found.parts)[:3] == [ENCODE, WIRE_OUT, RECEIVE]
    assert [name for name, times in found.steps.items() if not times.on_path] == ["a"]
    assert found.steps["a"].asked_ns == pytest.approx(10.8 * MS)


def test_a_clock_of_another_machine_leaves_the_wire_as_the_rest() -> None:
    shifted = a_trace()
    for span in (shifted.whole, *shifted.steps.values()):
        span.stamps_ns = {name: at + 10**12 for name, at in span.stamps_ns.items()}
    assert share_a_clock([(CLIENT, a_trace())])
    assert not share_a_clock([(CLIENT, shifted)])
    found = break_down(CLIENT, shifted, WAITS_FOR, one_clock=False)
    assert found.parts[WIRE_OUT] == 61 * MS - 57 * MS
    assert WIRE_BACK not in found.parts
    assert found.accounted_ns == found.whole_ns
    assert found.steps["preprocess"].asked_ns == pytest.approx((1 + 2 + 1.5) * MS)
    sums = reconcile([found], 1, one_clock=False)
    assert any("two clocks" in warning for warning in warnings_of((), sums))


def test_stamps_out_of_order_do_not_make_good_for_what_is_missing() -> None:
    """The client says that the answer came 10 ms before the server sent it: the sum is 10 ms too large, and is said."""
    client = ClientSpan("r1", 0, 1 * MS, 50 * MS, 64 * MS)
    found = break_down(client, a_trace(), WAITS_FOR, one_clock=True)
    assert found.accounted_ns == 74 * MS
    sums = reconcile([found], 1, one_clock=True)
    assert not sums.adds_up
    assert sums.accounted == pytest.approx(74 / 64)
    assert any("does not add up" in warning for warning in warnings_of((), sums))


def test_requests_without_a_trace_do_not_add_up() -> None:
    found = break_down(CLIENT, a_trace(), WAITS_FOR, one_clock=True)
    assert reconcile([found] * 19, 20, one_clock=True).adds_up
    assert not reconcile([found] * 18, 20, one_clock=True).adds_up


def test_means_add_up_though_requests_take_different_paths() -> None:
    other = a_trace()
    other.steps["a"] = step(10.8, 1, 0.4, 46.5, 0.5)
    assert critical_path(other.steps, WAITS_FOR) == ["preprocess", "a"]
    both = [break_down(CLIENT, trace, WAITS_FOR, one_clock=True) for trace in (a_trace(), other)]
    parts = {part.name: part for part in mean_parts(both)}
    assert sum(part.share for part in parts.values()) == pytest.approx(1)
    assert parts["a"].mean_ms == pytest.approx(23.25)
    assert parts["b"].mean_ms == pytest.approx(20)
    names = list(parts)
    assert names.index(QUEUE) < names.index("preprocess") < names.index("a") < names.index(COPY) < names.index(DECODE)


def counters(queue: float, compute: float) -> StepStatistics:
    return StepStatistics(10, round(queue * 10 * MS), 0, round(compute * 10 * MS), 0)


def test_the_trace_is_held_against_the_counters() -> None:
    found = [break_down(CLIENT, a_trace(), WAITS_FOR, one_clock=True)]
    traced: Mapping[str, StepStatistics] = {"a": counters(1, 10), "b": counters(2, 40), "decide": counters(0, 0.04)}
    counted = {"a": counters(1, 10.2), "b": counters(2, 50), "decide": counters(0, 0.1)}
    steps = {record.model: record for record in step_records(found, traced=traced, counted=counted)}
    assert list(steps) == ["preprocess", "a", "b", "decide"]
    assert steps["a"].agrees
    assert steps["b"].agrees is False
    # A difference of less than a tenth of a millisecond is none.
    assert steps["decide"].agrees
    assert steps["preprocess"].agrees is None
    assert (steps["b"].on_path, steps["a"].on_path) == (1.0, 0.0)
    said = warnings_of(tuple(steps.values()), reconcile(found, 1, one_clock=True))
    assert any("disagree by more than 5% on b" in warning for warning in said)


def write(path: Path, pieces: Any) -> Path:
    path.write_text(json.dumps(pieces), encoding="utf-8")
    return path


def test_a_trace_in_pieces_and_files_is_put_together(tmp_path: Path) -> None:
    one = write(
        tmp_path / "trace.0",
        [
            {"id": 2, "model_name": "preprocess", "model_version": 1, "request_id": "r1", "parent_id": 1},
            {"id": 2, "timestamps": [{"name": "REQUEST_START", "ns": 5}]},
            {"id": 1, "timestamps": [{"name": "REQUEST_START", "ns": 4}]},
            {"id": 7, "model_name": "other", "model_version": 1, "request_id": "r9"},
        ],
    )
    two = write(
        tmp_path / "trace.1",
        [
            {"id": 1, "model_name": "coronanet", "model_version": 1, "request_id": "r1"},
            {"id": 1, "timestamps": [{"name": "GRPC_SEND_START", "ns": 9}]},
        ],
    )
    traces = read_traces([one, two], "coronanet")
    assert list(traces) == ["r1"]
    assert traces["r1"].whole.stamps_ns == {"REQUEST_START": 4, "GRPC_SEND_START": 9}
    assert traces["r1"].steps["preprocess"].stamps_ns == {"REQUEST_START": 5}
    assert not is_complete(traces["r1"])
    assert is_complete(a_trace())


@pytest.mark.parametrize("text", ['[{"id": 1', '{"id": 1}', '[{"id": "x"}]'])
def test_what_is_no_trace_is_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "trace.0"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"is not a trace of a Triton server") as caught:
        read_traces([file], "coronanet")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="cannot read the server's trace"):
        read_traces([tmp_path / "missing"], "coronanet")
