"""Studies through an ensemble, local or served, to results on disk."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine, Tensors
from ..engines.bundle import Bundle
from ..engines.predictor import Choice
from ..engines.streams import slices_a_call
from ..model import scratch
from ..model.assessment import assess
from ..model.errors import CoronanetError, UsageError
from ..model.findings import Decisions
from ..model.lungs import Components
from ..model.readers import Unreadable
from ..model.study import Arriving, Study
from ..model.tasks import TASKS, TaskName
from .read_ahead import read_ahead
from .report import TRIAGE, ModelRecord, Report
from .result import Extras, check_replaceable, write_result
from .stages import Stages

#: The masks in the order that ``Components`` takes them.
MARKS = ("lung_mask", "lesion_mask", "lesion_types")
#: Batches that may be read before the engine takes them.
READ_AHEAD = 8

#: Told the study's name, how many of its slices are done, and how many it has.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Result:
    """A study that was finished: its folder, its report, and what it took.

    ``elapsed_s`` is from the first look at the input to the finished folder. ``stages_s`` says where it went: ``open``
    (headers), ``read`` (pixels), ``wait`` (for the engine's answers, whose slices may still be read), ``place``
    (answers into place), ``clean``, ``assess`` and ``write``; ``read`` goes on beside ``wait`` and ``place``.
    """

    folder: Path
    report: Report
    elapsed_s: float = 0.0
    stages_s: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Outcome:
    """What became of the inputs of one run, in their order."""

    results: tuple[Result, ...]
    failures: tuple[Unreadable, ...]

    @property
    def exit_code(self) -> int:
        """0 all finished, 1 some of many failed, 2 none finished."""
        if not self.failures:
            return 0
        return 1 if self.results else 2


def predict_studies(
    engine: Engine,
    inputs: Iterable[Study | Arriving | Unreadable],
    out: Path,
    *,
    models: Sequence[ModelRecord],
    extras: Extras = Extras(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Outcome:
    """Run every study and write ``out/<name>/``; one that fails does not stop the others.

    Args:
        engine: the ensemble: ``image`` int16 ``[N, H, W]`` to the four decisions of ``model.tasks``.
        inputs: as ``readers.open_inputs`` or ``try_inputs`` yield them; what is unreadable goes to the failures.
        out: where the folders go; two studies of one name become ``name`` and ``name-2``.
        models: what the reports say about the networks.
        extras: what results of DICOM studies have beyond the usual.
        progress: called after every batch.
    """
    results: list[Result] = []
    failures: list[Unreadable] = []
    taken = {TRIAGE}
    for found in inputs:
        if isinstance(found, Unreadable):
            failures.append(found)
            continue
        arriving = Arriving.whole(found) if isinstance(found, Study) else found
        name, origin = arriving.study.name, arriving.origin
        folder = out / _free_name(name, taken)
        try:
            results.append(_predict_one(engine, arriving, folder, models=models, extras=extras, progress=progress))
        except CoronanetError as error:
            failures.append(Unreadable(origin, str(error)))
        except (MemoryError, ValueError, cv2.error) as error:
            # Whatever is the matter with this one, the others are to be finished; its words may quote the study.
            failures.append(Unreadable(origin, f"{name} cannot be finished ({type(error).__name__})"))
        # Not held while the next one is read.
        del found, arriving
    return Outcome(tuple(results), tuple(failures))


def _predict_one(
    engine: Engine,
    arriving: Arriving,
    folder: Path,
    *,
    models: Sequence[ModelRecord],
    extras: Extras,
    progress: Progress | None,
) -> Result:
    check_replaceable(folder)
    study, stages, start = arriving.study, Stages(), time.perf_counter()
    stages.add("open", arriving.opening_s)
    decisions, components = decide(engine, arriving, stages, progress=progress)
    inference_ms = (time.perf_counter() - start) * 1e3
    with stages.timed("clean"):
        cleaning = components.clean(decisions)
    with stages.timed("assess"):
        assessment = assess(study, decisions)
    with stages.timed("write"):
        report = write_result(
            folder, study, decisions, assessment, models, cleaning=cleaning, inference_ms=inference_ms, extras=extras
        )
    return Result(folder, report, arriving.opening_s + time.perf_counter() - start, stages.seconds)


def decide(
    engine: Engine, arriving: Arriving, stages: Stages, *, progress: Progress | None = None
) -> tuple[Decisions, Components]:
    """The ensemble's decisions on every slice of a study, and what of them hangs together.

    The slices are read on a thread of their own, a few ahead of the engine, which may work on several batches at once;
    here its answers are put into place and looked at. A batch holds the same slices in whatever order they arrive.

    Raises:
        UsageError: the slices cannot be read, the engine refuses them, or it does not give all four decisions of each.
    """
    study, shape = arriving.study, arriving.study.image.shape
    step = min(engine.max_batch, slices_a_call(study.image[0].nbytes))
    masks = {task.output: scratch.empty(shape, np.uint8) for task in TASKS.values() if task.is_segmentation}
    probability = np.empty(len(study.image), np.float32)
    components, asked, done = Components(), deque[range](), 0
    with read_ahead(stages.each("read", _batches(arriving, step)), READ_AHEAD) as batches:

        def feeds() -> Iterator[Tensors]:
            for batch in batches:
                asked.append(batch)
                yield {"image": np.ascontiguousarray(study.image[batch.start : batch.stop])}

        for answer in stages.each("wait", engine.infer_each(feeds())):
            batch = asked.popleft()
            with stages.timed("place"):
                _check(answer, (len(batch), *shape[1:]))
                probability[batch.start : batch.stop] = answer["infected_probability"].reshape(-1)
                for name, mask in masks.items():
                    mask[batch.start : batch.stop] = answer[name]
                for index in batch:
                    components.add(index, *(masks[name][index] for name in MARKS))
                done += len(batch)
                if done % scratch.AT_ONCE < step:
                    scratch.release(study.image, *masks.values())
            if progress:
                progress(study.name, done, len(study.image))
    if done < len(study.image):
        raise UsageError(f"the ensemble answered for {done} of {len(study.image)} slices of {study.name}")
    return Decisions(probability, masks["lesion_mask"], masks["lesion_types"], masks["lung_mask"]), components


def _batches(arriving: Arriving, step: int) -> Iterator[range]:
    """Which slices go together, ``step`` from the first on, each once it has arrived."""
    count = len(arriving.study.image)
    here: Counter[int] = Counter()
    for index in arriving.arrivals:
        start = index - index % step
        here[start] += 1
        batch = range(start, min(start + step, count))
        if here[start] == len(batch):
            del here[start]
            yield batch


def _check(answer: Mapping[str, NDArray[Any]], shape: tuple[int, ...]) -> None:
    wanted = {task.output: shape if task.is_segmentation else (shape[0], 1) for task in TASKS.values()}
    if missing := [name for name in wanted if name not in answer]:
        raise UsageError(f"the ensemble gives no {', '.join(missing)}: expected {', '.join(wanted)}")
    for name, expected in wanted.items():
        if answer[name].shape != expected:
            raise UsageError(f"the ensemble gives {name} of {list(answer[name].shape)}: expected {list(expected)}")


def local_models(bundles: Mapping[TaskName, Bundle], choices: Mapping[TaskName, Choice]) -> tuple[ModelRecord, ...]:
    """What a report says about networks that run in this process."""
    return tuple(
        ModelRecord(name, bundle.sha256, choices[name].backend, choices[name].precision)
        for name, bundle in bundles.items()
    )


def _free_name(name: str, taken: set[str]) -> str:
    """``name``, or ``name-2``, ``name-3``… where this run already wrote it; upper and lower case count as equal."""
    base = name or "study"
    free, number = base, 1
    while free.casefold() in taken:
        number += 1
        free = f"{base}-{number}"
    taken.add(free.casefold())
    return free
