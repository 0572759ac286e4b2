"""Two reports against each other: refused where they are not the same measurement, else a verdict for every case."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engines.open import GPU_BACKENDS
from ..engines.predictor import Choice
from ..model.errors import UsageError
from .noise import Estimate, Run, apart, log_medians
from .peers import all_peers
from .protocol import EngineCase, LoadCase, PeerCase, Protocol
from .report import CompareReport, Comparison, EngineReport
from .serving_report import ServingReport
from .timing import Samples
from .trtexec import TRTEXEC
from .ways import Way
from .yardstick import NAME as YARDSTICK

ABSENT = "nothing"
Rounds = Sequence[Sequence[int]]
Case = EngineCase | PeerCase | LoadCase


@dataclass(frozen=True)
class _Measured:
    """One case, its rounds, and those of the yardstick beside them; None for a server's and on a GPU."""

    case: Case
    rounds: Rounds
    yardstick: Rounds | None


def differences(a: Protocol, b: Protocol) -> dict[str, tuple[str, str]]:
    """Every field that two protocols do not share, by its dotted name, and what each has there; the moment apart."""
    one, other = dict(_fields(a)), dict(_fields(b))
    return {
        name: (one.get(name, ABSENT), other.get(name, ABSENT))
        for name in [*one, *(name for name in other if name not in one)]
        if one.get(name) != other.get(name)
    }


def check_same(a: Protocol, b: Protocol, vary: Sequence[str] = ()) -> tuple[str, ...]:
    """The fields that differ and may.

    Args:
        vary: what is being compared, as fields or their beginnings: ``software.source``, ``software.packages``.

    Raises:
        UsageError: a field differs that is not among ``vary``; the message names it and both values.
    """
    found = differences(a, b)
    allowed = tuple(name for name in found if any(name == field or name.startswith(f"{field}.") for field in vary))
    refused = [name for name in found if name not in allowed]
    if refused:
        first = refused[0]
        one, other = found[first]
        more = f" (and {len(refused) - 1} more: {', '.join(refused[1:5])})" if refused[1:] else ""
        raise UsageError(
            f"not the same measurement: {first} is {one} in A and {other} in B{more}: measure both alike, or name what "
            f"you compare with --vary {first}"
        )
    return allowed


def compare(
    a: EngineReport | ServingReport, b: EngineReport | ServingReport, vary: Sequence[str] = ()
) -> CompareReport:
    """Every case that both reports have, B over A.

    Raises:
        UsageError: the protocols differ in what is not among ``vary``, or no case is in both.
    """
    varied = check_same(a.protocol, b.protocol, vary)
    one, other = _measured(a), _measured(b)
    comparisons = compare_shared(a, b)
    if not comparisons:
        raise UsageError(f"no case is in both reports: A has {_list(one)}, B has {_list(other)}")
    return CompareReport(
        a=a.protocol,
        b=b.protocol,
        varied=varied,
        comparisons=comparisons,
        only_in_a=tuple(str(each.case) for key, each in one.items() if key not in other),
        only_in_b=tuple(str(each.case) for key, each in other.items() if key not in one),
    )


def compare_shared(a: EngineReport | ServingReport, b: EngineReport | ServingReport) -> tuple[Comparison, ...]:
    """The cases that both reports have, B over A; maybe none."""
    one, other = _measured(a), _measured(b)
    return tuple(_compare(one[key], other[key]) for key in one if key in other)


def why_missing(a: EngineReport, b: EngineReport) -> list[tuple[EngineCase | PeerCase, str]]:
    """The cases of A that B has no result of, each with the reason that B gives for skipping it or its group."""
    measured = {_key(one.case) for one in (*b.results, *b.peers)}
    reasons = {item.what: item.reason for item in b.skipped}
    return [
        (one.case, next((reasons[name] for name in _skipped_as(one.case) if name in reasons), "no reason is known"))
        for one in (*a.results, *a.peers)
        if _key(one.case) not in measured
    ]


def _skipped_as(case: EngineCase | PeerCase) -> tuple[str, ...]:
    """What a report that skipped a case may call it: it alone, in every batch, and all that was measured with it."""
    task, batch = case.task, f"batch {case.batch}"
    if isinstance(case, PeerCase):
        who, group = case.peer, (f"{task} peers {batch}", f"{task} {batch}")
    else:
        who, group = Way(Choice(case.backend, case.precision, case.threads), case.graphs), (f"{task} {batch}",)
    return (f"{task} {who} {batch}", f"{task} {who}", *group)


def comparison(case: Case, a: Rounds, b: Rounds, estimate: Estimate, relative_to: str | None) -> Comparison:
    """The record of an estimate, with the medians of all samples as they were measured."""
    one, other = (Samples(tuple(duration for each in rounds for duration in each)).p50_ms for rounds in (a, b))
    return Comparison(
        case=case,
        a_p50_ms=one,
        b_p50_ms=other,
        ratio=estimate.ratio,
        low=estimate.low,
        high=estimate.high,
        noise_floor=estimate.floor,
        relative_to=relative_to,
        verdict=estimate.verdict,
        rounds=estimate.rounds,
    )


def _compare(a: _Measured, b: _Measured) -> Comparison:
    runs = [Run(log_medians(one.rounds), log_medians(one.yardstick) if one.yardstick else None) for one in (a, b)]
    return comparison(a.case, a.rounds, b.rounds, apart(*runs), YARDSTICK if a.yardstick and b.yardstick else None)


def _measured(report: EngineReport | ServingReport) -> dict[str, _Measured]:
    """What was measured, by its case as text."""
    if isinstance(report, ServingReport):
        loads = [
            _Measured(one.case, [burst.latencies_ns for burst in one.bursts if burst.latencies_ns], None)
            for one in report.results
        ]
        return {_key(one.case): one for one in loads if one.rounds}
    rods = {(rod.task, rod.batch): rod.rounds_ns for rod in report.yardsticks}
    return {
        _key(one.case): _Measured(
            one.case, one.rounds_ns, None if _on_gpu(one.case) else rods.get((one.case.task, one.case.batch))
        )
        for one in (*report.results, *report.peers)
    }


def _on_gpu(case: EngineCase | PeerCase) -> bool:
    """Whether it runs where the yardstick, which is the CPU's, says nothing about it."""
    if isinstance(case, EngineCase):
        return case.backend in GPU_BACKENDS
    return any(peer.name == case.peer and peer.device == "gpu" for peer in (*all_peers(), TRTEXEC))


def _key(case: Case) -> str:
    return case.model_dump_json()


def _fields(protocol: Protocol) -> Iterator[tuple[str, str]]:
    for part in ("method", "software", "machine"):
        yield from _flatten(part, getattr(protocol, part).model_dump(mode="json"))


def _flatten(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flatten(f"{name}.{key}", inner)
    else:
        yield name, str(value)


def _list(measured: Mapping[str, _Measured]) -> str:
    shown = [str(one.case) for one in measured.values()][:3]
    return ", ".join(shown) + (" …" if len(measured) > len(shown) else "")
