"""The readers of the data sets, one each, and the split of each task.

Every reader states the window that its grey levels stand for; nothing is guessed. What each set's labels may be used
for stands in the set's own NOTES.txt. No reader opens a ``test/`` split.
"""

import csv
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

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

#: Held back to validate: Radiopaedia volumes with lesions of both kinds and lesion-free slices, and two patients.
VALIDATION_VOLUMES = {"4", "5"}
VALIDATION_PATIENTS = {"LUNG1-005", "LUNG1-024"}


def _labels(path: Path) -> NDArray[np.uint8]:
    # Typed as never None, yet None is how OpenCV says that it cannot read a file.
    labels: Any = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if labels is None:
        raise UsageError(f"cannot decode {path}: expected an 8-bit picture")
    return labels.astype(np.uint8)


def _slice(path: Path, window: Window) -> NDArray[np.int16]:
    return read_image(path, window).image[0]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise UsageError(f"no {path}: --data must be the folder that holds the data sets (see the README, Training)")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def medseg(folder: Path) -> Iterator[tuple[Path, Sample]]:
    """MedSeg COVID-SemiSeg, the 50 slices of ``train/``: all three labels exact, effusion not labelled."""
    root = folder / "medseg98_covid_semiseg" / "train"
    images = sorted((root / "images").glob("*.jpg"))
    if not images:
        raise UsageError(f"no images in {root / 'images'}: --data must be the folder that holds the data sets")
    for path in images:
        labels = _labels(root / "multiclass" / f"{path.stem}.png")
        yield path, Sample(_slice(path, LUNG_WINDOW), labels, "types", f"medseg-{path.stem}")


def radiopaedia(folder: Path) -> Iterator[tuple[Path, Sample]]:
    """Radiopaedia volumes: lesions exact everywhere, their kind only where ``class_source`` is ``exact``."""
    root = folder / "radiopaedia9_medseg2"
    for row in _rows(root / "slices.csv"):
        path = root / "images" / f"{Path(row['file']).stem}.jpg"
        labels = _labels(root / "lesion" / row["file"])
        known = row["class_source"] in ("exact", "none")
        if not known:
            labels = (labels > 0).astype(np.uint8)
        sample = Sample(
            _slice(path, LUNG_WINDOW),
            labels,
            "types" if known else "lesion",
            f"radiopaedia-{row['volume']}",
            (_labels(root / "lung" / row["file"]) > 127).astype(np.uint8),
        )
        yield path, sample


def plethora(folder: Path) -> Iterator[tuple[Path, Sample]]:
    """PleThora patients: pleural effusion or not; no other lesion is labelled."""
    root = folder / "pleural_effusion10_plethora"
    for row in _rows(root / "slices.csv"):
        path = root / "images" / f"{row['file']}.jpg"
        labels = (_labels(root / "effusion" / f"{row['file']}.png") > 127).astype(np.uint8)
        yield path, Sample(_slice(path, PLETHORA_WINDOW), labels, "effusion", f"plethora-{row['patient']}")


Reader = Callable[[Path], Iterator[tuple[Path, Sample]]]
LESIONS: tuple[tuple[str, Reader], ...] = (("MedSeg train", medseg), ("Radiopaedia", radiopaedia))
SOURCES: dict[TaskName, tuple[tuple[str, Reader], ...]] = {
    "classification": LESIONS,
    "binary_segmentation": LESIONS,
    "multiclass_segmentation": (*LESIONS, ("PleThora", plethora)),
    "lung_segmentation": (("Radiopaedia", radiopaedia),),
}


def load_split(tasks: Collection[TaskName], folder: Path) -> Split:
    """Read everything that the tasks learn from, and split it by patient.

    Raises:
        UsageError: a data set is not in ``folder``, or a picture cannot be decoded.
    """
    digest = hashlib.sha256()
    train: list[Sample] = []
    validation: list[Sample] = []
    sources = dict(source for task in tasks for source in SOURCES[task])
    for reader in sources.values():
        for path, sample in reader(folder):
            digest.update(path.read_bytes())
            digest.update(sample.labels.tobytes())
            if sample.lung is not None:
                digest.update(sample.lung.tobytes())
            (validation if is_held_back(sample) else train).append(sample)
    return Split(tuple(train), tuple(validation), tuple(sources), digest.hexdigest())


def is_held_back(sample: Sample) -> bool:
    source, _, group = sample.group.partition("-")
    held = {"radiopaedia": VALIDATION_VOLUMES, "plethora": VALIDATION_PATIENTS}
    return group in held.get(source, set[str]())


def groups(samples: Iterable[Sample]) -> set[str]:
    """The patients and volumes that the samples come from."""
    return {sample.group for sample in samples}
