"""Can the verdicts be believed on this machine? ``python -m coronanet.benchmarks.prove BUNDLE``.

Measures a network against itself, and against itself with a tenth more work, over and over with the code of
``bench engines --against``, and counts how often a difference was called that is none, and a tenth was not found.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..engines.base import Engine, EngineBase, Tensors
from ..engines.bundle import Bundle
from ..engines.predictor import Choice
from ..model.tasks import TaskName
from .against import measure_against
from .bench_engines import Opener
from .inputs import phantom_slices
from .report import EngineReport, ProofReport, write_text
from .timing import Plan, WarmUpRule
from .ways import Way, open_way

SLOWDOWN = 0.1
WAY = Way(Choice("onnxruntime", "fp32"))


class Slowed(EngineBase):
    """Another engine that goes on for ``share`` of the time of each call, so it is slower by that whatever happens."""

    def __init__(self, engine: Engine, share: float) -> None:
        super().__init__(engine.inputs, engine.outputs, engine.max_batch)
        self._engine, self._share = engine, share

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        start = time.perf_counter_ns()
        answer = self._engine.infer(feeds)
        until = time.perf_counter_ns() + round(self._share * (time.perf_counter_ns() - start))
        while time.perf_counter_ns() < until:
            pass
        return answer

    def close(self) -> None:
        self._engine.close()


def prove(bundle: Bundle, runs: int, plan: Plan) -> ProofReport:
    """``runs`` comparisons of the same thing, and as many with a tenth planted in B, by turns."""
    image = phantom_slices()
    same: dict[TaskName, Bundle] = {bundle.card.task: bundle}
    reports: dict[str, list[EngineReport]] = {"same": [], "planted": []}
    for _ in range(runs):
        for name, found in reports.items():
            opener = _opener(planted=name == "planted")
            found.append(measure_against(same, same, [WAY], [1], image, plan=plan, rule=WarmUpRule(), opener=opener))
    comparisons = {name: tuple(one for each in found for one in each.comparisons) for name, found in reports.items()}
    protocol = reports["same"][0].protocol
    return ProofReport(
        protocol=protocol.model_copy(update={"method": protocol.method.model_copy(update={"verb": "bench prove"})}),
        slowdown=SLOWDOWN,
        same=comparisons["same"],
        planted=comparisons["planted"],
        verdicts={name: dict(Counter(one.verdict for one in found)) for name, found in comparisons.items()},
    )


def _opener(*, planted: bool) -> Opener:
    """Opens A and B by turns, A first, as `against` asks for them."""
    opened: list[Engine] = []

    def opener(bundle: Bundle, way: Way) -> Engine:
        engine = open_way(bundle, way)
        opened.append(Slowed(engine, SLOWDOWN) if planted and len(opened) % 2 else engine)
        return opened[-1]

    return opener


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--out", type=Path, help="write every comparison and the protocol to this JSON file")
    asked = parser.parse_args()
    report = prove(Bundle.open(asked.bundle), asked.runs, Plan(asked.repeats, 60.0))
    if asked.out is not None:
        write_text(asked.out, report.to_json())
    print(json.dumps(report.verdicts))  # noqa: T201 - its answer


if __name__ == "__main__":
    main()
