"""What is scored: slices with their truth, of groups that were held back from training.

No ``test/`` split is read here; those are in ``test_sets``, which ``coronanet evaluate --final`` alone opens.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from ...engines.datasets import Reader, is_held_back, plethora, radiopaedia
from ...engines.samples import LESION_KNOWN, Sample
from ...model.errors import UsageError
from ...model.readers.nifti import read_nifti
from ...model.study import Study
from ...model.tasks import TASKS, TaskName
from ..ucsd.images import FOLDER, Part, ucsd_files, ucsd_images

STUDIES = ("normal001", "P001")
EFFUSION = TASKS["multiclass_segmentation"].labels.index("pleural effusion")


@dataclass(frozen=True)
class Case:
    """One slice and the truth about it.

    Attributes:
        path: its file.
        group: its patient or volume; slices without a known patient are a group each.
        image: int16 HU ``[H, W]``.
        truth: uint8 in the values of the task's labels: ``[H, W]`` for a segmentation, ``[]`` for a classification.
        lung_box: top, left, bottom, right of the lungs in pixels, where they are labelled.
    """

    path: Path
    group: str
    image: NDArray[np.int16]
    truth: NDArray[np.uint8]
    lung_box: tuple[int, int, int, int] | None = None

    @property
    def name(self) -> str:
        """The stem of its file."""
        return self.path.stem


@dataclass(frozen=True)
class CaseSet:
    """Slices that one task is scored on; ``labels`` are those of the task that the truth tells apart."""

    name: str
    task: TaskName
    labels: tuple[int, ...]
    cases: tuple[Case, ...]


class HeldBack:
    """The held-back groups below a data folder, each data set read once, when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[tuple[Path, Sample], ...]] = {}

    def sets(self, task: TaskName) -> tuple[CaseSet, ...]:
        """What the task is scored on, without the data sets that are not in the folder."""
        volumes = self._samples("radiopaedia9_medseg2", radiopaedia)
        where = f"Radiopaedia, volumes {_names(volumes)}"
        match task:
            case "classification":
                cases = (_case(path, sample, _infected(sample)) for path, sample in _telling_lesion(volumes))
                return _filled(CaseSet(where, task, (1,), tuple(cases)), ucsd_set(self._folder, "val"))
            case "binary_segmentation":
                cases = (_case(path, sample, _lesion(sample)) for path, sample in _telling_lesion(volumes))
                return _filled(CaseSet(where, task, (1,), tuple(cases)))
            case "lung_segmentation":
                cases = (_case(path, sample, sample.lung) for path, sample in volumes if sample.lung is not None)
                return _filled(CaseSet(where, task, (1,), tuple(cases)))
            case "multiclass_segmentation":
                kinds = (
                    _case(path, sample, sample.labels) for path, sample in volumes if sample.supervision == "types"
                )
                patients = self._samples("pleural_effusion10_plethora", plethora)
                effusions = (_case(path, sample, sample.labels * np.uint8(EFFUSION)) for path, sample in patients)
                return _filled(
                    CaseSet(f"{where}, kinds exact", task, (1, 2), tuple(kinds)),
                    CaseSet(f"PleThora, patients {_names(patients)}", task, (EFFUSION,), tuple(effusions)),
                )

    def _samples(self, name: str, reader: Reader) -> tuple[tuple[Path, Sample], ...]:
        if name not in self._read:
            there = reader(self._folder) if (self._folder / name).is_dir() else ()
            self._read[name] = tuple((path, sample) for path, sample in there if is_held_back(sample))
        return self._read[name]


def ucsd_set(folder: Path, part: Part, *, final: bool = False) -> CaseSet:
    """A part of UCSD COVID-CT by patient, every image encoded alike; empty where the data set is not in the folder.

    Raises:
        UsageError: the test split is asked for without ``final``.
    """
    cases: tuple[Case, ...] = ()
    if (folder / FOLDER).is_dir():
        files, images = ucsd_files(folder, part, final=final), ucsd_images(folder, part, final=final)
        cases = tuple(
            Case(path, file.patient, image, np.array(covid, np.uint8))
            for file, (path, image, covid) in zip(files, images, strict=True)
        )
    return CaseSet(f"UCSD COVID-CT {part}", "classification", (1,), cases)


def studies(folder: Path) -> Iterator[Study]:
    """The whole volumes of ``covid_ct_md_sample``, a normal patient and one with COVID-19, as far as they are there."""
    for name in STUDIES:
        path = folder / "covid_ct_md_sample" / f"{name}.nii.gz"
        if path.is_file():
            yield read_nifti(path)


def read_grey(path: Path) -> NDArray[np.uint8]:
    """An 8-bit picture with one grey channel ``[H, W]``, or with three equal ones.

    Raises:
        UsageError: it cannot be decoded, has another depth, or is coloured.
    """
    # Typed as never None, yet None is how OpenCV says that it cannot read a file.
    picture: Any = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if picture is None:
        raise UsageError(f"cannot decode {path}: expected an 8-bit picture")
    if picture.dtype != np.uint8:
        raise UsageError(f"{path} is {picture.dtype}: expected an 8-bit picture with 0..255")
    if picture.ndim == 3:
        if (picture[..., :3] != picture[..., :1]).any():
            raise UsageError(f"{path} is coloured: expected a grey picture")
        picture = picture[..., 0]
    return picture


def _case(path: Path, sample: Sample, truth: NDArray[np.uint8]) -> Case:
    return Case(path, sample.group, sample.image, truth, sample.lung_box)


def _telling_lesion(samples: Iterable[tuple[Path, Sample]]) -> Iterator[tuple[Path, Sample]]:
    return ((path, sample) for path, sample in samples if sample.supervision in LESION_KNOWN)


def _lesion(sample: Sample) -> NDArray[np.uint8]:
    return (sample.labels > 0).astype(np.uint8)


def _infected(sample: Sample) -> NDArray[np.uint8]:
    return np.array(sample.labels.any(), np.uint8)


def _names(samples: Iterable[tuple[Path, Sample]]) -> str:
    groups = sorted({sample.group.partition("-")[2] for _, sample in samples})
    return " and ".join(groups)


def _filled(*sets: CaseSet) -> tuple[CaseSet, ...]:
    return tuple(one for one in sets if one.cases)
