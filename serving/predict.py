"""Studies through an ensemble, local or served, to results on disk."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ..engines.base import Engine
from ..engines.bundle import Bundle
from ..engines.predictor import Choice
from ..model.errors import CoronanetError, UsageError
from ..model.findings import Decisions
from ..model.lungs import keep_lungs
from ..model.readers import Unreadable
from ..model.study import Study
from ..model.tasks import TASK_NAMES, TASKS, TaskName
from .report import TRIAGE, ModelRecord, Report
from .result import Extras, check_replaceable, write_result

#: Slices a call, where the engine takes as many: on a CPU as fast as four, in 1 GB of memory instead of 1.7.
BATCH = 2
#: int16 bytes of image a call: a slice of 4096 x 4096 goes alone.
BATCH_BYTES = 32 * 2**20

#: Told the study's name, how many of its slices are done, and how many it has.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Result:
    """A study that was finished: its folder and its report."""

    folder: Path
    report: Report


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
    inputs: Iterable[Study | Unreadable],
    out: Path,
    *,
    models: Sequence[ModelRecord],
    extras: Extras = Extras(),  # noqa: B008 - frozen
    progress: Progress | None = None,
) -> Outcome:
    """Run every study and write ``out/<name>/``; one that fails does not stop the others.

    Args:
        engine: the ensemble: ``image`` int16 ``[N, H, W]`` to the four decisions of ``model.tasks``.
        inputs: as ``readers.try_inputs`` yields them; what is unreadable goes to the failures.
        out: where the folders go; two studies of one name become ``name`` and ``name-2``.
        models: what the reports say about the networks.
        extras: what results of DICOM studies have beyond the usual.
        progress: called after every batch.
    """
    results: list[Result] = []
    failures: list[Unreadable] = []
    taken = {TRIAGE}
    for study in inputs:
        if isinstance(study, Unreadable):
            failures.append(study)
            continue
        folder = out / _free_name(study.name, taken)
        try:
            results.append(_predict_one(engine, study, folder, models=models, extras=extras, progress=progress))
        except CoronanetError as error:
            failures.append(Unreadable(study.name, str(error)))
        except (MemoryError, ValueError, cv2.error) as error:
            # Whatever is the matter with this one, the others are to be finished; its words may quote the study.
            failures.append(Unreadable(study.name, f"{study.name} cannot be finished ({type(error).__name__})"))
        # Not held while the next one is read.
        del study
    return Outcome(tuple(results), tuple(failures))


def _predict_one(
    engine: Engine,
    study: Study,
    folder: Path,
    *,
    models: Sequence[ModelRecord],
    extras: Extras,
    progress: Progress | None,
) -> Result:
    check_replaceable(folder)
    start = time.perf_counter()
    decisions = decide(engine, study, progress=progress)
    inference_ms = (time.perf_counter() - start) * 1e3
    cleaning = keep_lungs(decisions)
    report = write_result(folder, study, decisions, models, cleaning=cleaning, inference_ms=inference_ms, extras=extras)
    return Result(folder, report)


def decide(engine: Engine, study: Study, *, progress: Progress | None = None) -> Decisions:
    """The ensemble's decisions on every slice of a study.

    Raises:
        UsageError: the engine refuses the slices, or does not give all four decisions.
    """
    count = len(study.image)
    step = max(1, min(engine.max_batch, BATCH, BATCH_BYTES // study.image[0].nbytes))
    wanted = [task.output for task in TASKS.values()]
    whole: dict[str, NDArray[Any]] = {}
    starts = range(0, count, step)
    parts = engine.infer_each({"image": np.ascontiguousarray(study.image[start : start + step])} for start in starts)
    for start, part in zip(starts, parts, strict=True):
        if missing := [name for name in wanted if name not in part]:
            raise UsageError(f"the ensemble gives no {', '.join(missing)}: expected {', '.join(wanted)}")
        for name in wanted:
            # Into place at once: kept apart and joined at the end, the masks of a long study would be held twice.
            if name not in whole:
                whole[name] = np.empty((count, *part[name].shape[1:]), part[name].dtype)
            whole[name][start : start + step] = part[name]
        if progress:
            progress(study.name, min(start + step, count), count)
    return Decisions.from_outputs(whole)


def local_models(bundles: Mapping[TaskName, Bundle], choices: Mapping[TaskName, Choice]) -> tuple[ModelRecord, ...]:
    """What a report says about networks that run in this process."""
    return tuple(
        ModelRecord(name, bundle.sha256, choices[name].backend, choices[name].precision)
        for name, bundle in bundles.items()
    )


def served_models() -> tuple[ModelRecord, ...]:
    """What a report says about networks behind a Triton server, which does not tell their hash and precision."""
    return tuple(ModelRecord(name, None, "triton", None) for name in TASK_NAMES)


def _free_name(name: str, taken: set[str]) -> str:
    """``name``, or ``name-2``, ``name-3``… where this run already wrote it; upper and lower case count as equal."""
    base = name or "study"
    free, number = base, 1
    while free.casefold() in taken:
        number += 1
        free = f"{base}-{number}"
    taken.add(free.casefold())
    return free
