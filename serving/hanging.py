"""Finds a model process that hangs while another of its model answers, so that the model as a whole looks well."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..model.tasks import TRIAGE
from .processes import ModelProcess

#: A process that waits for a request wakes once a second, one that answers computes: whose main thread has no turn at a
#: processor is inside of a request and not getting on with it. So many answers of its model for each process say that
#: this is not the machine's fault.
ANSWERS = 16


@dataclass(frozen=True)
class _Mark:
    """What a process had done when it was last seen to work, and what its model had answered when next looked at."""

    worked_ns: int
    answered: int | None = None


class Hanging:
    """Looks again and again at the processes of one server."""

    def __init__(self) -> None:
        #: By the number of the process.
        self._marks: dict[int, _Mark] = {}

    def look(self, processes: Sequence[ModelProcess], answered: Mapping[str, int]) -> list[ModelProcess]:
        """Those that hang.

        Args:
            processes: that live and are to answer.
            answered: how many requests each model has answered since it was loaded, counted before this look and after
                the one before.
        """
        marks: dict[int, _Mark] = {}
        hanging: list[ModelProcess] = []
        siblings = Counter(process.model for process in processes)
        for process in processes:
            worked_ns, now = process.worked_ns, answered.get(process.model)
            # The gated model asks the ensemble and waits: where that hangs it is not to blame.
            if worked_ns is None or now is None or siblings[process.model] == 1 or process.model == TRIAGE:
                continue
            mark = self._marks.get(process.pid)
            if mark is None or mark.worked_ns != worked_ns:
                # What was answered until now may have been its work, so it is counted from the next look on.
                marks[process.pid] = _Mark(worked_ns)
            elif mark.answered is None or mark.answered > now:  # the model was loaded anew and counts from 0
                marks[process.pid] = _Mark(worked_ns, now)
            else:
                marks[process.pid] = mark
                if now - mark.answered >= ANSWERS * siblings[process.model]:
                    hanging.append(process)
        self._marks = marks
        return hanging
