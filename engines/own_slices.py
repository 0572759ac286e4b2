"""Slices of the user's own for the gates, from a plain folder.

``DIR/images/`` holds what `coronanet predict` reads: PNG or JPEG with an explicit window, NIfTI, a DICOM series.
``DIR/masks/``, where it is there, holds for each image one of the same name, with label values as grey levels: PNG for
a picture, NIfTI on the same grid for a volume. Keep test data elsewhere: the gates are no test.

Every other study is for the gates, those between for the ranges of int8, which are not judged by what they came from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ..model.card import Window
from ..model.errors import UsageError
from ..model.readers import NIFTI_SUFFIXES, Reading, find_inputs, is_picture
from ..model.readers.images import read_grey
from ..model.study import Study
from ..model.tasks import TASKS, TaskName
from .datasets import evenly
from .places import data_home
from .samples import Sample
from .slices import GateSlices, calibration_slices, gate_slices, known_slices

Item = TypeVar("Item")
#: What slices are for.
Purpose = Literal["gates", "calibration"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
IMAGES, MASKS = "images", "masks"
#: As many slices as the gates take of the known data sets.
MOST = 24
#: No task has a label above it; 255 for "lesion" is the usual mistake.
LARGEST_LABEL = max(len(task.labels) for task in TASKS.values()) - 1


def find_slices(option: Path | None, window: Window | None, task: TaskName) -> GateSlices:
    """The slices for the gates of a task: of the user's own folder, else as ``gate_slices``.

    Args:
        option: the folder that the user names for this run, of the known data sets or with ``images``.
        window: what grey 0 and grey 255 of own pictures mean.

    Raises:
        UsageError: the folder is neither, or one of its files is refused; a window where it means nothing.
    """
    home = _own_home(option, window)
    return gate_slices(option, task) if home is None else own_slices(home, window)


def slices_at_hand(option: Path | None, task: TaskName) -> GateSlices | None:
    """The real slices for the gates of a task where nobody names a window; own pictures need one, and count as none.

    Raises:
        UsageError: as ``find_slices``.
    """
    home = data_home(option)
    if home is None or not (home / IMAGES).is_dir():
        return None if home is None else known_slices(home, task)
    return None if any(is_picture(found.origin) for found in find_inputs(home / IMAGES)) else own_slices(home, None)


def find_calibration(option: Path | None, window: Window | None) -> GateSlices:
    """The training slices for the ranges of int8: of the user's own folder those that ``find_slices`` leaves, else as
    ``calibration_slices``.

    Raises:
        UsageError: there are none; or as ``find_slices``.
    """
    home = _own_home(option, window)
    return calibration_slices(option) if home is None else own_slices(home, window, "calibration")


def _own_home(option: Path | None, window: Window | None) -> Path | None:
    home = data_home(option)
    if home is not None and (home / IMAGES).is_dir():
        return home
    if window is not None:
        raise UsageError(f"--window is for slices of your own: expected a folder '{IMAGES}' in --data DIR")
    return None


def own_slices(folder: Path, window: Window | None, purpose: Purpose = "gates") -> GateSlices:
    """At most ``MOST`` slices of ``folder/images``, evenly, with their masks where ``folder/masks`` is there.

    Of every other study, in the order of their names; of a single study every other slice, which the name says.

    Raises:
        UsageError: an image or a mask cannot be read, is missing, or the two do not fit each other; a single slice
            leaves none for the ranges of int8.
    """
    masks = folder / MASKS if (folder / MASKS).is_dir() else None
    inputs = find_inputs(folder / IMAGES)
    is_alone = len(inputs) == 1
    chosen = evenly(inputs if is_alone else _every_other(inputs, purpose), MOST)
    samples: list[Sample] = []
    for number, found in enumerate(chosen):
        study = found.open(Reading(window)).complete()
        share = MOST * (number + 1) // len(chosen) - MOST * number // len(chosen)
        mask = np.zeros(study.image.shape, np.uint8) if masks is None else _mask(masks, study)
        indices = range(len(study.image))
        samples += [
            # What a label means is for the task to say: for lungs, 1 is lung.
            Sample(study.image[index], mask[index], "types", study.name, mask[index])
            for index in evenly(_every_other(indices, purpose) if is_alone else indices, share)
        ]
    if not samples:
        raise UsageError(
            f"{folder / IMAGES} holds one slice, for the gates, and int8 needs others for its ranges: add images",
            page="calibration-data",
        )
    count = "1 slice" if len(samples) == 1 else f"{len(samples)} slices"
    name = f"{count} of the user's own" + (" with masks" if masks is not None else "")
    name += ", every other one of a single study" if is_alone else ""
    return GateSlices(name, tuple(samples), real=True, has_truth=masks is not None)


def _every_other(items: Sequence[Item], purpose: Purpose) -> Sequence[Item]:
    return items[PURPOSES.index(purpose) :: len(PURPOSES)]


def _mask(folder: Path, study: Study) -> NDArray[np.uint8]:
    """The labels ``[Z, H, W]`` of a study."""
    if study.kind == "dicom":
        raise UsageError(f"masks of a DICOM series are not read: convert {study.name} to NIfTI, e.g. with dcm2niix")
    suffixes = NIFTI_SUFFIXES if study.nifti is not None else (".png",)
    paths = [folder / f"{study.name}{suffix}" for suffix in suffixes]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UsageError(f"{paths[0]} is missing: where there are masks, every image has one of its name")
    if study.nifti is not None:
        # nibabel takes its time to import, which only those who have NIfTI spend.
        from ..model.readers.nifti import read_mask

        mask = read_mask(path, study.nifti)
    else:
        mask = read_grey(path)[None]
    if mask.shape != study.image.shape:
        rows, columns = study.image.shape[1:]
        raise UsageError(f"{path} is {mask.shape[1]} x {mask.shape[2]} pixels, its image {rows} x {columns}")
    if (largest := int(mask.max())) > LARGEST_LABEL:
        raise UsageError(f"{path} holds the value {largest}: expected label values, 0 to {LARGEST_LABEL}, as greys")
    return mask
