"""What is scored: weights, a bundle on a backend, or a folder of somebody else's prediction maps."""

import hashlib
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from ...engines.bundle import CARD, MANIFEST, WEIGHTS, Bundle, hash_file
from ...engines.predictor import REFERENCE, Choice, Predictor
from ...engines.samples import IMAGE_LABELS_ONLY
from ...model.card import Card
from ...model.errors import MissingPackageError, UsageError
from ...model.findings import TYPE_NAMES
from ...model.tasks import TASK_NAMES, TASKS, TaskName
from .sets import Case, read_grey

MAP_SUFFIXES = (".png", ".jpg", ".jpeg")
#: Maps hold a probability as 0..255 and are decided at one half.
HALF_GREY = 127.5

#: One slice to what is decided about it: a label map uint8 ``[H, W]``, or a probability ``[]``.
Decide = Callable[[Case], NDArray[Any]]


@dataclass(frozen=True)
class Subject:
    """One thing that decides.

    Attributes:
        kind: weights through the torch reference, a bundle through a backend, ready-made maps, or a baseline.
        name: the family of the network and what taught it if not drawn masks, or the folder of the maps.
        runs_on: backend and precision; empty for maps.
        sha256: of the file of weights, or of a folder of maps as ``sha256sum * | sha256sum`` gives it.
        card_sha256: of the card, which holds the operating point; empty for maps.
        labels: the labels that it decides on; None is all those of its task.
        covers: whether it has an answer for a case; a network has one for every case.
        takes_views: whether it looks at the image itself, and so can be shown another view of it.
        start: opens it; what it gives is used within its context.
    """

    kind: Literal["weights", "bundle", "maps", "baseline"]
    path: Path
    task: TaskName
    name: str
    runs_on: str
    sha256: str
    card_sha256: str
    threshold: float
    labels: tuple[int, ...] | None
    covers: Callable[[Case], bool]
    takes_views: bool
    start: Callable[[], AbstractContextManager[Decide]]


def find_subjects(
    path: Path, *, task: str | None = None, label: str | None = None, choice: Choice | None = None
) -> list[Subject]:
    """What lies at ``path``: weights or a bundle, a folder of several of them, or maps.

    Args:
        task: of maps, what they decide.
        label: of maps of one lesion type, its name.
        choice: on what a bundle runs; None takes ONNX Runtime fp32.

    Raises:
        UsageError: there is nothing of the kind, or an option does not fit what is there.
        RefusedError: a bundle's file does not have its hash.
    """
    if not path.is_dir():
        raise UsageError(f"no folder at {path}: expected weights (with {CARD}), a bundle, or a folder of maps")
    tasks = [name for name in TASK_NAMES if (path / name / CARD).is_file()]
    folders = [path] if (path / CARD).is_file() else [path / name for name in tasks]
    if not folders:
        return [_maps(path, task, label, choice)]
    if task is not None or label is not None:
        raise UsageError(f"{path} has a card, which says its task: --task and --label are for folders of maps")
    return [_bundle(one, choice) if (one / MANIFEST).is_file() else _weights(one, choice) for one in folders]


def _weights(path: Path, choice: Choice | None) -> Subject:
    if choice is not None and choice != REFERENCE:
        raise UsageError(f"{path} is weights, which run on {REFERENCE}: export a bundle for {choice}")
    card = Card.load(path / CARD)
    if not (path / WEIGHTS).is_file():
        raise UsageError(f"no weights at {path / WEIGHTS}")

    @contextmanager
    def start() -> Generator[Decide]:
        try:
            from .reference import open_reference
        except ModuleNotFoundError as error:
            raise MissingPackageError(error.name or "torch", purpose="scoring weights", extra="train") from None
        with open_reference(card, path / WEIGHTS) as predictor:
            yield _decide_with(predictor)

    return _network("weights", path, card, REFERENCE, start)


def _bundle(path: Path, choice: Choice | None) -> Subject:
    bundle = Bundle.open(path)
    choice = choice or Choice()

    @contextmanager
    def start() -> Generator[Decide]:
        with Predictor.open(bundle, choice) as predictor:
            yield _decide_with(predictor)

    return _network("bundle", path, bundle.card, choice, start)


def _network(
    kind: Literal["weights", "bundle"],
    path: Path,
    card: Card,
    choice: Choice,
    start: Callable[[], AbstractContextManager[Decide]],
) -> Subject:
    return Subject(
        kind=kind,
        path=path,
        task=card.task,
        name=card.network.family + (IMAGE_LABELS_ONLY if _is_weak(card) else ""),
        runs_on=str(choice),
        sha256=hash_file(path / WEIGHTS),
        card_sha256=hash_file(path / CARD),
        threshold=card.threshold or 0.5,
        labels=None,
        covers=lambda _: True,
        takes_views=True,
        start=start,
    )


def _is_weak(card: Card) -> bool:
    sources = card.training_data.sources
    return bool(sources) and all(source.endswith(IMAGE_LABELS_ONLY) for source in sources)


def _decide_with(predictor: Predictor) -> Decide:
    def decide(case: Case) -> NDArray[Any]:
        decision = predictor.predict(case.image[None])[0]
        return decision if decision.ndim == 2 else decision[0]

    return decide


def _maps(path: Path, task: str | None, label: str | None, choice: Choice | None) -> Subject:
    files = _by_stem(path)
    if choice is not None:
        raise UsageError(f"{path} is a folder of maps, which are not run: leave out --backend and --precision")
    name, value = _what_maps_say(path, task, label)

    @contextmanager
    def start() -> Generator[Decide]:
        yield lambda case: read_map(files[case.name], case.truth.shape) * np.uint8(value)

    return Subject(
        kind="maps",
        path=path,
        task=name,
        name=path.resolve().name,
        runs_on="",
        sha256=hash_maps(list(files.values())),
        card_sha256="",
        threshold=0.5,
        labels=(value,),
        covers=lambda case: case.name in files,
        takes_views=False,
        start=start,
    )


def _by_stem(path: Path) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for file in sorted(path.iterdir()):
        if file.suffix.lower() not in MAP_SUFFIXES:
            continue
        if file.stem in files:
            raise UsageError(f"{path} has two maps of {file.stem}: {files[file.stem].name} and {file.name}")
        files[file.stem] = file
    if not files:
        raise UsageError(f"{path} holds no {CARD} and no maps ({', '.join(MAP_SUFFIXES)})")
    return files


def _what_maps_say(path: Path, task: str | None, label: str | None) -> tuple[TaskName, int]:
    """The task of a folder of maps, and the label that their white stands for."""
    kinds: dict[str, int] = {name: value for value, name in enumerate(TYPE_NAMES, start=1)}
    masks: dict[str, TaskName] = {name: name for name in TASK_NAMES if TASKS[name].is_segmentation}
    if task is not None and task not in masks:
        raise UsageError(f"no maps of '{task}': expected --task {' or '.join(masks)}")
    if label is not None:
        if label not in kinds:
            raise UsageError(f"no lesion type '{label}': expected --label {' or '.join(kinds)}")
        if task not in (None, "multiclass_segmentation"):
            raise UsageError(f"{task} has no types: leave out --label, or --task")
        return "multiclass_segmentation", kinds[label]
    if task is None:
        raise UsageError(f"{path} is a folder of maps: say with --task or --label what they show")
    if task == "multiclass_segmentation":
        raise UsageError(f"maps are scored one type at a time: --label {' or '.join(kinds)}")
    return masks[task], 1


def read_map(path: Path, shape: Sequence[int]) -> NDArray[np.uint8]:
    """A soft map 0..255, resized to ``shape`` where it has another, then decided at one half: uint8 0 / 1.

    Raises:
        UsageError: it is not an 8-bit grey picture.
    """
    soft = read_grey(path).astype(np.float32)
    if soft.shape != tuple(shape):
        soft = cv2.resize(soft, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return (soft >= HALF_GREY).astype(np.uint8)


def hash_maps(files: Sequence[Path]) -> str:
    """One hash for a folder of maps: what ``sha256sum * | sha256sum`` prints in it where it holds nothing else."""
    lines = "".join(f"{hash_file(file)}  {file.name}\n" for file in sorted(files, key=lambda file: file.name))
    return hashlib.sha256(lines.encode()).hexdigest()
