"""From what a person has (DICOM, NIfTI, 8-bit images, folders of them) to studies in int16 HU."""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..card import Window
from ..errors import MissingPackageError, UsageError
from ..study import Study
from .windows import NAMED_WINDOWS, parse_window

__all__ = ["NAMED_WINDOWS", "Unreadable", "find_inputs", "parse_window", "read_inputs", "try_inputs"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
EXPECTED = "a DICOM series, NIfTI (.nii, .nii.gz), PNG or JPEG"
#: The index of a DICOM medium: DICOM by its content, and never an image.
_DICOM_INDEX = "DICOMDIR"


@dataclass(frozen=True)
class Input:
    """One study to be: where it lies, and how it is read once its turn comes."""

    origin: Path
    read: Callable[[Window | None], Study]


@dataclass(frozen=True)
class Unreadable:
    """An input that did not become a study, or whose study did not become a report: where it lay, and why."""

    origin: str
    reason: str


def read_inputs(paths: Sequence[Path], *, window: Window | None = None) -> Iterator[Study]:
    """Every study that ``paths`` hold, one after the other, each read when it is asked for.

    A DICOM series is one study, whether its folder or a folder of such folders is given, and its notes say what else
    lies there; a NIfTI file and an image are one each, and so is each of them in a folder.

    Args:
        paths: files and folders.
        window: what grey 0 and grey 255 of 8-bit images stand for; other inputs carry Hounsfield units and ignore it.

    Raises:
        UsageError: a path is missing, a folder holds nothing readable, or a file is refused; the line says why.
    """
    for path in paths:
        for found in find_inputs(path):
            yield found.read(window)


def try_inputs(paths: Sequence[Path], *, window: Window | None = None) -> Iterator[Study | Unreadable]:
    """``read_inputs`` that goes on: what cannot be read comes as ``Unreadable`` in its place."""
    for path in paths:
        try:
            inputs = find_inputs(path)
        except UsageError as error:
            yield Unreadable(str(path), str(error))
            continue
        for found in inputs:
            try:
                yield found.read(window)
            except UsageError as error:
                yield Unreadable(str(found.origin), str(error))


def find_inputs(path: Path) -> list[Input]:
    """What lies at a path, looked at but not yet read.

    Raises:
        UsageError: nothing is there, or nothing that can be read.
    """
    if path.is_dir():
        if inputs := _in_folder(path):
            return inputs
        raise UsageError(f"{path} holds nothing that can be read: expected {EXPECTED}")
    if not path.exists():
        raise UsageError(f"{path} does not exist: expected a file or a folder with {EXPECTED}")
    if found := _in_file(path):
        return [found]
    raise UsageError(f"{path} is of no kind that can be read: expected {EXPECTED}")


def _in_folder(folder: Path) -> list[Input]:
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}") from None
    files = [entry for entry in entries if entry.is_file() and entry.name.upper() != _DICOM_INDEX]
    folders = [entry for entry in entries if entry.is_dir() and not entry.is_symlink()]
    if series := [file for file in files if _is_dicom(file)]:
        others = sum(1 for file in files if file not in series and _in_file(file))
        return [_series(series, folder.resolve().name, folder, _left_out(others, len(folders)))]
    if inputs := [found for file in files if (found := _in_file(file))]:
        return inputs
    return [found for entry in folders for found in _in_folder(entry)]


def _left_out(files: int, folders: int) -> tuple[str, ...]:
    """What lies beside a DICOM series, which takes its folder for itself."""
    counts = ((files, "file that is not DICOM", "files that are not DICOM"), (folders, "subfolder", "subfolders"))
    parts = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
    return (f"Not read beside this DICOM series: {' and '.join(parts)}; name them to read them",) if parts else ()


def _in_file(path: Path) -> Input | None:
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        return Input(path, lambda _: _nifti(path))
    if name.endswith(IMAGE_SUFFIXES):
        return Input(path, lambda window: _image(path, window))
    if _is_dicom(path) or name.endswith(DICOM_SUFFIXES):
        return _series([path], path.stem if name.endswith(DICOM_SUFFIXES) else path.name, path)
    return None


def _is_dicom(path: Path) -> bool:
    """By content: 128 bytes of preamble, then ``DICM`` (DICOM PS3.10, 7.1). Many DICOM files have no suffix."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _nifti(path: Path) -> Study:
    # nibabel and OpenCV take a third of a second to import, which the command line spends only when it reads.
    from .nifti import read_nifti

    return read_nifti(path)


def _image(path: Path, window: Window | None) -> Study:
    from .images import read_image

    return read_image(path, window)


def _series(files: Sequence[Path], name: str, origin: Path, notes: tuple[str, ...] = ()) -> Input:
    def read(_: Window | None) -> Study:
        if importlib.util.find_spec("pydicom") is None:
            raise MissingPackageError("pydicom", purpose=f"reading {origin}", extra="dicom")
        from .dicom import read_series

        study = read_series(files, name=name, origin=origin)
        return replace(study, notes=(*study.notes, *notes))

    return Input(origin, read)
