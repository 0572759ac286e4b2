"""Whether a server is well, and if not, which of its models is to blame; a busy one is not taken for a dead one."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..model.tasks import ENSEMBLE, TRIAGE
from .canary import Canary
from .probe import Kind, Probe, ProbeError

#: How long the canary may take before the models' counters are looked at, and then each model that stood still.
CANARY_S, STEP_S = 15.0, 30.0
STATISTICS_S = 30.0
#: What many requests can do to one more, so that it tells nothing by itself.
CROWDED: tuple[Kind, ...] = ("late", "full")
#: How often the counter of a model that is full is looked at.
LOOK_S = 0.2


@dataclass(frozen=True)
class Finding:
    """What an examination found.

    Attributes:
        verdict: ``well``; ``busy``: late or full, but getting on with its work; ``sick``.
        took_s: how long the canary took, in seconds.
        reason: why the server is not well, in one line.
        models: those that are sick; none where the server as a whole is.
        answered: how many requests each model had answered when it began, since it was loaded; of a server that is not
            sick.
    """

    verdict: Literal["well", "busy", "sick"]
    took_s: float
    reason: str = ""
    models: tuple[str, ...] = ()
    answered: Mapping[str, int] = field(default_factory=dict[str, int])


def examine(canary: Canary, probe: Probe, *, canary_s: float = CANARY_S, step_s: float = STEP_S) -> Finding:
    """Ask a server the canary and, where the answer is late, refused or not right, each model by itself.

    A model that answered requests while it was waited for is busy: behind hundreds of others the canary waits for
    minutes, or finds the queue full. One that answered none in ``step_s`` seconds although it was asked has stalled.
    Where every step is well the ensemble is judged so too, and then it is the server's fault. The gated model asks the
    ensemble, so it is to blame only where that answers.
    """
    started = time.monotonic()
    try:
        before = probe.answered(STATISTICS_S)
        failed = canary.first_failure(probe, canary_s)
        took_s = time.monotonic() - started
        if failed is None:
            return Finding("well", took_s, answered=before)
        whole, error = failed
        if error.kind == "unreachable":
            return Finding("sick", took_s, str(error))
        crowded = error.kind in CROWDED
        after = probe.answered(STATISTICS_S) if crowded else {}

        def judge(models: Iterable[str]) -> dict[str, str]:
            """Those that are sick, but for what answered while the canary was crowded out."""
            stood = [name for name in models if not crowded or after.get(name, 0) == before.get(name, 0)]
            return dict(_sick(canary, probe, stood, step_s))

        sick = judge(step.model for step in canary.steps)
        if not sick and whole == TRIAGE:
            sick = judge([TRIAGE])
            failed = canary.first_failure(probe, canary_s) if sick else None
            if failed is not None and failed[0] == ENSEMBLE:
                sick = {}
        if sick:
            reason = "; ".join(f"{name}: {why}" for name, why in sick.items())
            return Finding("sick", took_s, reason, tuple(sick))
        if crowded and not judge([ENSEMBLE]):
            return Finding("busy", took_s, str(error), answered=before)
    except ProbeError as silent:
        return Finding("sick", time.monotonic() - started, str(silent))
    return Finding("sick", took_s, str(error))


def _sick(canary: Canary, probe: Probe, models: Iterable[str], step_s: float) -> Iterable[tuple[str, str]]:
    """The models that do not answer rightly, each with the reason.

    Raises:
        ProbeError: the server does not even answer how many requests it has answered.
    """
    for name in models:
        before, deadline = probe.answered(STATISTICS_S).get(name, 0), time.monotonic() + step_s
        try:
            canary.ask_model(probe, name, step_s)
        except ProbeError as error:
            if error.kind not in CROWDED:
                yield name, str(error)
            elif not _works(probe, name, before, deadline):
                yield name, f"it answered no request in {step_s:g} s"


def _works(probe: Probe, model: str, before: int, deadline: float) -> bool:
    """Whether a model answers more than ``before`` requests; one that is full refuses long before ``deadline``."""
    while probe.answered(STATISTICS_S).get(model, 0) == before:
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_S)
    return True
