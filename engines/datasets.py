"""The readers of the data sets, one each, and the split of each task.

Every reader states the window that its grey levels stand for; nothing is guessed. What each set's labels may be used
for stands in the set's own NOTES.txt. No reader opens a ``test/`` split.
"""

import csv
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from ..model.card import Window
from ..model.errors import UsageError
from ..model.readers.images import read_image
from ..model.readers.windows import NAMED_WINDOWS
from ..model.tasks import TaskName
from .samples import Sample, Split

#: PleThora's own: HU = 6 x grey - 1024. The other sets are read as -1350..150 HU, the convention of the data's README.
PLETHORA_WINDOW = Window(low_hu=-1024.0, high_hu=6 * 255 - 1024.0)
LUNG_WINDOW = NAMED_WINDOWS["lung"]

#: The share of pictures that may be unreadable.
MOST_BROKEN = 0.05
#: Held back to validate: Radiopaedia volumes with lesions of both kinds and lesion-free slices, and two patients.
VALIDATION_VOLUMES = {"4", "5"}
VALIDATION_PATIENTS = {"LUNG1-005", "LUNG1-024"}


Item = TypeVar("Item")


def _labels(path: Path) -> NDArray[np.uint8]:
    # Typed as never None, yet None is how OpenCV says that it cannot read a file.
    labels: Any = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if labels is None:
        raise UsageError(f"cannot decode {path}: expected an 8-bit picture")
    return labels.astype(np.uint8)


def _slice(path: Path, window: Window, *masks: NDArray[np.uint8]) -> NDArray[np.int16]:
    """A slice whose masks must have its size."""
    image = read_image(path, window).image[0]
    for mask in masks:
        if mask.shape != image.shape:
            (height, width), (rows, columns) = mask.shape, image.shape
            raise UsageError(f"a mask of {path} is {height} x {width}, but the picture {rows} x {columns}")
    return image


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise UsageError(f"no {path}: --data must be the folder that holds the data sets (see the README, Training)")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def evenly(items: Sequence[Item], count: int | None) -> Sequence[Item]:
    """At most ``count`` of the items, the first and the last among them; None takes all."""
    if count is None or count >= len(items):
        return items
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]


Entry = tuple[Path, Sample]
#: Told of every picture that cannot be read; where there is none, the first one ends the reading.
Report = Callable[[UsageError], None]


def _each(items: Iterable[Any], read: Callable[[Any], Entry], report: Report | None) -> Iterator[Entry]:
    for item in items:
        try:
            entry = read(item)
        except UsageError as error:
            if report is None:
                raise
            report(error)
            continue
        yield entry


def medseg(folder: Path, report: Report | None = None, *, count: int | None = None) -> Iterator[Entry]:
    """MedSeg COVID-SemiSeg, the 50 slices of ``train/``: all three labels exact, effusion not labelled.

    Args:
        report: told of every picture that cannot be read; without one the first such ends the reading.
        count: how many slices, spread evenly; None reads all. So for every reader.
    """
    root = folder / "medseg98_covid_semiseg" / "train"
    images = sorted((root / "images").glob("*.jpg"))
    if not images:
        raise UsageError(f"no images in {root / 'images'}: --data must be the folder that holds the data sets")

    def read(path: Path) -> Entry:
        labels = _labels(root / "multiclass" / f"{path.stem}.png")
        return path, Sample(_slice(path, LUNG_WINDOW, labels), labels, "types", f"medseg-{path.stem}")

    return _each(evenly(images, count), read, report)


def radiopaedia(folder: Path, report: Report | None = None, *, count: int | None = None) -> Iterator[Entry]:
    """Radiopaedia volumes: lungs and lesions exact, the lesions' kind only where ``class_source`` is ``exact``."""
    root = folder / "radiopaedia9_medseg2"

    def read(row: dict[str, str]) -> Entry:
        path = root / "images" / f"{Path(row['file']).stem}.jpg"
        labels = _labels(root / "lesion" / row["file"])
        lung = (_labels(root / "lung" / row["file"]) > 127).astype(np.uint8)
        known = row["class_source"] in ("exact", "none")
        if not known:
            labels = (labels > 0).astype(np.uint8)
        supervision = "types" if known else "lesion"
        image = _slice(path, LUNG_WINDOW, labels, lung)
        return path, Sample(image, labels, supervision, f"radiopaedia-{row['volume']}", lung)

    return _each(evenly(_rows(root / "slices.csv"), count), read, report)


def plethora(folder: Path, report: Report | None = None, *, count: int | None = None) -> Iterator[Entry]:
    """PleThora patients: pleural effusion or not; no other lesion is labelled."""
    root = folder / "pleural_effusion10_plethora"

    def read(row: dict[str, str]) -> Entry:
        path = root / "images" / f"{row['file']}.jpg"
        labels = (_labels(root / "effusion" / f"{row['file']}.png") > 127).astype(np.uint8)
        return path, Sample(_slice(path, PLETHORA_WINDOW, labels), labels, "effusion", f"plethora-{row['patient']}")

    return _each(evenly(_rows(root / "slices.csv"), count), read, report)


class Reader(Protocol):
    """One data set, slice by slice."""

    def __call__(
        self, folder: Path, report: Report | None = None, /, *, count: int | None = None
    ) -> Iterator[Entry]: ...


LESIONS: tuple[tuple[str, Reader], ...] = (("MedSeg train", medseg), ("Radiopaedia", radiopaedia))
SOURCES: dict[TaskName, tuple[tuple[str, Reader], ...]] = {
    "classification": LESIONS,
    "binary_segmentation": LESIONS,
    "multiclass_segmentation": (*LESIONS, ("PleThora", plethora)),
    "lung_segmentation": (("Radiopaedia", radiopaedia),),
}


def load_split(tasks: Collection[TaskName], folder: Path, report: Report | None = None) -> Split:
    """Read everything that the tasks learn from, and split it by patient.

    Args:
        report: told of every picture that cannot be read; a few such are left out.

    Raises:
        UsageError: a data set is not in ``folder``, more than ``MOST_BROKEN`` of the pictures cannot be read, or one
            cannot and there is no ``report``.
    """
    broken: list[UsageError] = []

    def leave_out(error: UsageError) -> None:
        broken.append(error)
        if report is not None:
            report(error)

    digest = hashlib.sha256()
    train: list[Sample] = []
    validation: list[Sample] = []
    sources = dict(source for task in tasks for source in SOURCES[task])
    for reader in sources.values():
        for path, sample in reader(folder, leave_out if report is not None else None):
            digest.update(path.read_bytes())
            digest.update(sample.labels.tobytes())
            if sample.lung is not None:
                digest.update(sample.lung.tobytes())
            (validation if is_held_back(sample) else train).append(sample)
    pictures = len(broken) + len(train) + len(validation)
    if len(broken) > MOST_BROKEN * pictures:
        raise UsageError(f"{len(broken)} of {pictures} pictures cannot be read, the last: {broken[-1]}")
    return Split(tuple(train), tuple(validation), tuple(sources), digest.hexdigest())


def is_held_back(sample: Sample) -> bool:
    source, _, group = sample.group.partition("-")
    held = {"radiopaedia": VALIDATION_VOLUMES, "plethora": VALIDATION_PATIENTS}
    return group in held.get(source, set[str]())


def groups(samples: Iterable[Sample]) -> set[str]:
    """The patients and volumes that the samples come from."""
    return {sample.group for sample in samples}
