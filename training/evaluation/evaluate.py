"""Scoring: every subject on the sets of its task, in every view, with one and the same code."""

import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model.errors import UsageError
from ...model.intervals import Estimate
from ...model.study import Study
from .ledger import AS_GIVEN, DECIMALS, Row
from .scores import Scores, score_masks, score_probabilities
from .sets import Case, CaseSet, HeldBack
from .subjects import Decide, Subject
from .test_sets import final_sets
from .views import UNCHANGED, ViewOf

#: Told what is being scored and how many slices it has; gives back what is called after each slice.
Progress = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True)
class Result:
    """The scores of one label of one set in one view."""

    set: str
    view: str
    scores: Scores


def sets_for(subject: Subject, held_back: HeldBack, folder: Path, *, final: bool) -> list[CaseSet]:
    """What a subject is scored on: the held-back groups, and with ``final`` the test splits.

    Of maps and baselines: the sets that they have answers for, which must be complete.

    Raises:
        UsageError: nothing to score it on is in ``folder``, or slices of a set have no map, which are named.
    """
    sets = [*held_back.sets(subject.task), *(final_sets(subject.task, folder) if final else ())]
    if subject.labels is not None:
        told = [tuple(label for label in one.labels if label in subject.labels) for one in sets]
        sets = [dataclasses.replace(one, labels=labels) for one, labels in zip(sets, told, strict=True) if labels]
    chosen: list[CaseSet] = []
    for one in sets:
        missing = [case.name for case in one.cases if not subject.covers(case)]
        if 0 < len(missing) < len(one.cases):
            raise UsageError(
                f"{subject.path} has no answer for {len(missing)} of the {len(one.cases)} slices of {one.name}: "
                f"{', '.join(missing)}"
            )
        if not missing:
            chosen.append(one)
    if not chosen:
        hint = "" if final else "; the test splits need --final"
        asked = "its answers fit no slice of it" if sets else "none of the data sets is there"
        raise UsageError(f"nothing to score {subject.path} on in {folder}: {asked}{hint}")
    return chosen


def evaluate(
    subject: Subject, sets: Sequence[CaseSet], views: Sequence[ViewOf] = (), *, progress: Progress | None = None
) -> list[Result]:
    """The scores of a subject on every set as given, then in every further view that the set can be shown in.

    Raises:
        UsageError: views are asked of something that does not look at images, or what it decides does not fit.
        MissingPackageError: the backend is not installed.
    """
    if views and not subject.takes_views:
        raise UsageError(f"{subject.path} does not look at the images: --views needs weights or a bundle")
    results: list[Result] = []
    with subject.start() as decide:
        for one in sets:
            for view in (UNCHANGED, *(view for view in views if any(view.can(case) for case in one.cases))):
                shown = dataclasses.replace(one, cases=tuple(view.change(case) for case in one.cases))
                tick = progress(f"{subject.name}: {one.name}, {view.name}", len(one.cases)) if progress else None
                decisions = _decisions(decide, shown.cases, tick)
                found = (
                    score_probabilities(shown, decisions, subject.threshold)
                    if one.task == "classification"
                    else score_masks(shown, one.labels, decisions)
                )
                results += [Result(one.name, view.name, scores) for scores in found]
    return results


def _decisions(decide: Decide, cases: Sequence[Case], tick: Callable[[], None] | None) -> Iterator[NDArray[Any]]:
    for case in cases:
        yield decide(case)
        if tick is not None:
            tick()


def evaluate_study(subject: Subject, study: Study, lungs: Subject) -> list[Result]:
    """What a classifier or the binary segmenter says of a whole study that has no truth but the patient's diagnosis.

    ``called_infected`` is the number of slices at or above the operating point; ``percent_of_lung`` is the share of
    lung pixels, as ``lungs`` finds them, that are called lesion. Other tasks say nothing here.
    """
    where = f"COVID-CT-MD {study.name}"
    if subject.task == "classification":
        with subject.start() as decide:
            probability = np.array([float(decide(case)) for case in _slices(study)])
        called = int(np.count_nonzero(probability >= subject.threshold))
        values = {"called_infected": float(called), "highest_probability": float(probability.max())}
        label = "infected"
    elif subject.task == "binary_segmentation":
        lung_pixels = lesion_pixels = 0
        with subject.start() as decide, lungs.start() as find_lung:
            for case in _slices(study):
                lung = find_lung(case) > 0
                lung_pixels += int(np.count_nonzero(lung))
                lesion_pixels += int(np.count_nonzero(lung & (decide(case) > 0)))
        values = {"percent_of_lung": 100 * lesion_pixels / lung_pixels} if lung_pixels else {}
        label = "lesion"
    else:
        return []
    estimates = {name: Estimate(value, None, None) for name, value in values.items()}
    return [Result(where, AS_GIVEN, Scores(label, len(study.image), None, "", estimates))]


def _slices(study: Study) -> Iterator[Case]:
    nothing = np.array(0, np.uint8)
    return (Case(Path(study.name), study.name, image, nothing) for image in study.image)


def to_rows(subject: Subject, results: Sequence[Result], command: str, when: dt.datetime) -> list[Row]:
    """Results as rows of the ledger, rounded to ``DECIMALS``."""
    return [
        Row(
            date_utc=when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            sha256=subject.sha256,
            card_sha256=subject.card_sha256,
            kind=subject.kind,
            name=subject.name,
            runs_on=subject.runs_on,
            task=subject.task,
            set=result.set,
            label=result.scores.label,
            view=result.view,
            images=result.scores.images,
            showing=result.scores.showing,
            resampled=result.scores.resampled,
            command=command,
            scores={name: round(found.value, DECIMALS) for name, found in result.scores.values.items()},
            intervals={
                name: (round(found.low, DECIMALS), round(found.high, DECIMALS))
                for name, found in result.scores.values.items()
                if found.low is not None and found.high is not None
            },
        )
        for result in results
    ]
