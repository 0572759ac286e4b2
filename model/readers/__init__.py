"""From what a person has (DICOM, NIfTI, 8-bit images, folders of them) to studies in int16 HU."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os.path import commonpath
from pathlib import Path

from ..card import Window
from ..errors import MissingPackageError, UsageError
from ..study import Arriving, Study, printable
from .windows import NAMED_WINDOWS, parse_window

__all__ = [
    "NAMED_WINDOWS",
    "Reading",
    "Unreadable",
    "find_inputs",
    "is_picture",
    "open_inputs",
    "parse_window",
    "try_inputs",
]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
EXPECTED = "a DICOM series, NIfTI (.nii, .nii.gz), PNG or JPEG"
#: The index of a DICOM medium: DICOM by its content, and never an image.
_DICOM_INDEX = "DICOMDIR"
#: Archives nest patient, study and series; what lies deeper than this is no longer looked for.
_DEEPEST = 8


#: What a folder of results holds (``serving.result``).
_RESULT = ("report.json", "report.html")


@dataclass(frozen=True)
class Reading:
    """How inputs are read, each option by those that need it.

    ``window`` says what grey 0 and grey 255 of 8-bit images stand for; ``series`` names another CT series of a DICOM
    study than the one that would be chosen, by its number, its hash or its UID.
    """

    window: Window | None = None
    series: str | None = None


@dataclass(frozen=True)
class Input:
    """One study to be: where it lies, and how it is opened once its turn comes."""

    origin: Path
    open: Callable[[Reading], Arriving]


@dataclass(frozen=True)
class _Tree:
    """What lies in a folder and below: files of DICOM, other inputs, and how many inputs beside DICOM are passed by."""

    dicom: tuple[Path, ...] = ()
    inputs: tuple[Input, ...] = ()
    beside: int = 0


@dataclass(frozen=True)
class Unreadable:
    """An input that did not become a study, or whose study did not become a report: where it lay, and why."""

    origin: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", printable(self.origin))
        object.__setattr__(self, "reason", printable(self.reason))


def try_inputs(
    paths: Sequence[Path], *, window: Window | None = None, series: str | None = None
) -> Iterator[Study | Unreadable]:
    """``open_inputs``, each study with all its slices."""
    for found in open_inputs(paths, Reading(window, series)):
        if isinstance(found, Unreadable):
            yield found
            continue
        try:
            yield found.complete()
        except UsageError as error:
            yield Unreadable(found.origin, str(error))


def open_inputs(paths: Sequence[Path], reading: Reading) -> Iterator[Arriving | Unreadable]:
    """Every study that files and folders hold, one after the other, each opened when it is asked for.

    A DICOM study is one, however its files lie in a folder and the folders in it: the CT series that shows the lungs
    best is read, and its notes say what else lies there. A NIfTI file and an image are one each, and so is each of them
    in a folder. What cannot be read comes as ``Unreadable`` in its place, and the others go on.
    """
    for path in paths:
        start = time.perf_counter()
        try:
            inputs = find_inputs(path)
        except UsageError as error:
            yield Unreadable(str(path), str(error))
            continue
        for found in inputs:
            try:
                arriving = found.open(reading)
            except UsageError as error:
                yield Unreadable(str(found.origin), str(error))
            else:
                yield replace(arriving, opening_s=time.perf_counter() - start)
            start = time.perf_counter()


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
    tree = _scan(folder)
    return [*_dicom_studies(tree, folder), *tree.inputs]


def _scan(folder: Path, depth: int = 0) -> _Tree:
    """Images and NIfTI files of a folder hide its subfolders, where results may lie; DICOM is looked for in all, but
    for results of an earlier run. What cannot even be looked at becomes an input that says so when its turn comes.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}") from None
    dicom: list[Path] = []
    inputs: list[Input] = []
    folders: list[Path] = []
    closed: list[Input] = []
    for entry in entries:
        try:
            if entry.is_dir():
                folders += [] if entry.is_symlink() or _is_result(entry) else [entry]
            elif not entry.is_file() or entry.name.upper() == _DICOM_INDEX:
                continue
            elif _is_dicom(entry):
                dicom.append(entry)
            elif found := _in_file(entry):
                inputs.append(found)
        except OSError as error:
            closed.append(_closed(entry, UsageError(f"cannot read {entry}: {error.strerror}")))
        except UsageError as error:
            closed.append(_closed(entry, error))
    if inputs and not dicom:
        return _Tree(inputs=(*inputs, *closed))
    below: list[_Tree] = []
    for entry in folders if depth < _DEEPEST else []:
        try:
            below.append(_scan(entry, depth + 1))
        except UsageError as error:
            closed.append(_closed(entry, error))
    dicom += [file for tree in below for file in tree.dicom]
    beside = len(inputs) + sum(tree.beside for tree in below)
    deeper = tuple(found for tree in below for found in tree.inputs)
    return _Tree(tuple(dicom), (*deeper, *closed), beside)


def _is_result(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _RESULT)


def _closed(path: Path, error: UsageError) -> Input:
    def refuse(_: Reading) -> Arriving:
        raise error

    return Input(path, refuse)


def _dicom_studies(tree: _Tree, folder: Path) -> list[Input]:
    """One input for each DICOM study, or, where files do not say of which they are, for each of their folders."""
    if not tree.dicom:
        return []
    _need_pydicom(folder)
    from .dicom import study_of

    studies: dict[str, list[Path]] = {}
    of_folder: dict[Path, str] = {}
    said = {file: study_of(file) for file in tree.dicom}
    for file, study in said.items():
        of_folder[file.parent] = study or of_folder.get(file.parent, "")
    for file, study in said.items():
        # A file that does not say, or is damaged, belongs to what lies beside it; reading that will tell.
        studies.setdefault(study or of_folder[file.parent] or str(file.parent), []).append(file)
    notes = ()
    if tree.beside:
        files = "1 file that is" if tree.beside == 1 else f"{tree.beside} files that are"
        notes = (f"Not read beside DICOM: {files} not; name them to read them",)
    homes = [Path(commonpath([file.parent for file in files])) for files in studies.values()]
    return [
        _series(files, home.resolve().name, home, notes) for files, home in zip(studies.values(), homes, strict=True)
    ]


def _in_file(path: Path) -> Input | None:
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        return Input(path, lambda _: _nifti(path))
    if is_picture(path):
        return Input(path, lambda reading: _image(path, reading.window))
    if _is_dicom(path) or name.endswith(DICOM_SUFFIXES):
        return _series([path], path.stem if name.endswith(DICOM_SUFFIXES) else path.name, path)
    return None


def is_picture(path: Path) -> bool:
    """Whether it is read as an 8-bit image, which needs a window."""
    return path.name.lower().endswith(IMAGE_SUFFIXES)


def _is_dicom(path: Path) -> bool:
    """By content: 128 bytes of preamble, then ``DICM`` (DICOM PS3.10, 7.1). Many DICOM files have no suffix."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None


def _nifti(path: Path) -> Arriving:
    # nibabel and OpenCV take a third of a second to import, which the command line spends only when it reads.
    from .nifti import open_nifti

    return open_nifti(path)


def _image(path: Path, window: Window | None) -> Arriving:
    from .images import read_image

    return replace(Arriving.whole(read_image(path, window)), origin=str(path))


def _series(files: Sequence[Path], name: str, origin: Path, notes: tuple[str, ...] = ()) -> Input:
    def read(reading: Reading) -> Arriving:
        _need_pydicom(origin)
        from .dicom import open_series

        found = open_series(files, name=name, origin=origin, wanted=reading.series)
        return replace(found, study=replace(found.study, notes=(*found.study.notes, *notes)))

    return Input(origin, read)


def _need_pydicom(origin: Path) -> None:
    if importlib.util.find_spec("pydicom") is None:
        raise MissingPackageError("pydicom", purpose=f"reading {origin}", extra="dicom")
