"""`bench engines --against`: two sets of bundles in one run, interleaved, each opened twice.

What two openings of the same network differ by is the A/A noise floor of this very run.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine, Tensors
from ..engines.bundle import Bundle
from ..engines.load_errors import first_line
from ..model.errors import UsageError
from ..model.tasks import TaskName
from .bench_engines import LONGEST, Opener, engine_call, feeds_of, hide_folder
from .compare import comparison
from .engine_results import case_of, engine_result
from .inputs import batch_of, describe
from .noise import Floats, log_medians, paired
from .protocol import Method, observe
from .report import Comparison, EngineReport, EngineResult, Skipped
from .timing import Call, Plan, Rounds, WarmUpRule, interleave, warm_up
from .ways import Way, open_way

SIDES = ("A", "B")
OPENINGS = 2
Key = tuple[str, int]


def measure_against(
    bundles: Mapping[TaskName, Bundle],
    others: Mapping[TaskName, Bundle],
    ways: Sequence[Way],
    batches: Sequence[int],
    image: NDArray[np.int16],
    *,
    plan: Plan,
    rule: WarmUpRule,
    opener: Opener = open_way,
    advance: Callable[[str], object] | None = None,
) -> EngineReport:
    """Measure A and B in turns, way by way; the results are A's, the comparisons B over A.

    Args:
        bundles, others: A and B, by task; a task that only one has is left out.

    Raises:
        UsageError: nothing could be compared; the message has the reasons.
    """
    protocol = observe(_method(image, plan, rule), bundles)
    results: list[EngineResult] = []
    comparisons: list[Comparison] = []
    skipped: list[Skipped] = [
        Skipped(what=name, reason="only one of the two has it") for name in bundles.keys() ^ others.keys()
    ]
    both: list[TaskName] = [name for name in bundles if name in others]
    for name in both:
        for way in ways:
            for batch in batches:
                what = f"{name} {way} batch {batch}"
                if advance is not None:
                    advance(what)
                try:
                    with ExitStack() as stack:
                        pair = {"A": bundles[name], "B": others[name]}
                        engines = _open(pair, way, stack, opener)
                        feeds = {side: feeds_of(bundle, batch_of(image, batch)) for side, bundle in pair.items()}
                        calls = _calls(engines, feeds)
                        warm = {key: warm_up(call, rule) for key, call in calls.items()}
                        taken = interleave(calls, plan, items=batch)
                        case = case_of(name, way, batch, engines["A", 0])
                except Exception as error:  # a runtime that fails raises what it likes, and the rest goes on
                    reason = hide_folder(others[name], UsageError(hide_folder(bundles[name], error)))
                    skipped.append(Skipped(what=what, reason=first_line(UsageError(reason))[:LONGEST]))
                    continue
                first = ("A", 0)
                results.append(
                    engine_result(bundles[name], case, protocol, warm=warm[first], rounds=taken[first], ranking=None)
                )
                a, b = (_all_rounds(taken, side) for side in SIDES)
                comparisons.append(comparison(case, a, b, paired(_values(taken, "A"), _values(taken, "B")), None))
    if not comparisons:
        raise UsageError(f"nothing to compare: {'; '.join(f'{item.what}: {item.reason}' for item in skipped)}")
    return EngineReport(
        protocol=protocol,
        against={name: bundle.sha256 for name, bundle in sorted(others.items())},
        results=tuple(results),
        comparisons=tuple(comparisons),
        skipped=tuple(skipped),
    )


def _open(pair: Mapping[str, Bundle], way: Way, stack: ExitStack, opener: Opener) -> dict[Key, Engine]:
    """Both sides alternate, so that neither has the older half of the memory."""
    return {
        (side, number): stack.enter_context(opener(pair[side], way)) for number in range(OPENINGS) for side in SIDES
    }


def _calls(engines: Mapping[Key, Engine], feeds: Mapping[str, Tensors]) -> dict[Key, Call]:
    return {key: engine_call(engine, feeds[key[0]]) for key, engine in engines.items()}


def _values(taken: Mapping[Key, Rounds], side: str) -> list[Floats]:
    return [log_medians(taken[side, number].rounds_ns) for number in range(OPENINGS)]


def _all_rounds(taken: Mapping[Key, Rounds], side: str) -> list[tuple[int, ...]]:
    return [one for number in range(OPENINGS) for one in taken[side, number].rounds_ns]


def _method(image: NDArray[np.int16], plan: Plan, rule: WarmUpRule) -> Method:
    return Method(
        verb="bench engines",
        measures="one synchronous infer() of the network alone: preprocessing and decision left out",
        transfers="arrays of this process in and out; copies to and from the engine counted",
        order="A and B in turns, each opened twice; in a turn one call that is not counted, then a block that is",
        input=describe(image, "through the bundles' own preprocessing"),
        warm_up=rule,
        plan=plan,
    )
