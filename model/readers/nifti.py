"""NIfTI volumes to int16 HU in display orientation, and masks back onto the file's own grid."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from .. import scratch
from ..errors import UsageError
from ..study import Arriving, NiftiGrid, Study
from .hounsfield import INT16, check_size, to_hounsfield

#: Columns towards the patient's left, rows towards the back, slices towards the head.
DISPLAY = axcodes2ornt(("L", "P", "S"))
#: Lungs hold air: a chest CT whose every voxel is denser than this is not in Hounsfield units.
AIR_HU = -300

_DAMAGED = (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, OverflowError, MemoryError, zlib.error)


def read_nifti(path: Path) -> Study:
    """``open_nifti``, and all its slices."""
    return open_nifti(path).complete()


def open_nifti(path: Path) -> Arriving:
    """A volume, or a single axial slice, through the file's own scaling.

    Its slices come as they lie in the file, where they lie in it one after the other, else all at the end.

    Raises:
        UsageError: the file is damaged, too large, not a volume, holds values that are not Hounsfield units, or does
            not say where its axes lie; what only the voxels tell, while the slices arrive.
    """
    image = _open(path)
    shape = tuple(int(size) for size in image.shape)
    if len(shape) < 2 or any(size != 1 for size in shape[3:]):
        raise UsageError(f"{path} has {len(shape)} axes {list(shape)}: expected one volume with 3, so split it first")
    affine = np.asarray(image.affine, np.float64)
    grid = NiftiGrid(affine, shape, _orientation(affine, shape, path), _codes(image))
    volume_shape = (*shape, 1)[:3]
    size = tuple(volume_shape[list(grid.orientation[:, 0]).index(axis)] for axis in (2, 1, 0))
    check_size(*size, origin=str(path))
    volume = scratch.empty(size, np.int16)
    study_affine = affine @ inv_ornt_aff(grid.orientation, volume_shape)
    column, row = (float(size) for size in np.linalg.norm(study_affine[:3, :2], axis=0))
    # Across the slices, not along their axis: a sheared voxel (a tilted gantry) is smaller than its three edges say.
    between = float(abs(np.linalg.det(study_affine[:3, :3]))) / (column * row)
    study = Study(
        stem(path),
        volume,
        "nifti",
        spacing_mm=(between, row, column),
        affine=study_affine,
        nifti=grid,
        notes=_notes(image),
    )
    return Arriving(study, _arrivals(image, study, path), str(path))


def read_mask(path: Path, grid: NiftiGrid) -> NDArray[np.uint8]:
    """A mask ``[Z, H, W]`` of whole numbers 0..255, from a NIfTI file on the grid of a study's own file.

    Raises:
        UsageError: the file is damaged, on another grid, or holds other values.
    """
    image = _open(path)
    if tuple(image.shape) != grid.shape or not np.allclose(image.affine, grid.affine, atol=1e-3):
        raise UsageError(
            f"{path} is not on the grid of its image: expected the same affine and the shape {list(grid.shape)}, got "
            f"{list(image.shape)}: resample it, with nearest neighbours"
        )
    try:
        values = np.asanyarray(image.dataobj).reshape((*grid.shape, 1)[:3])
    except _DAMAGED as error:
        raise UsageError(f"{path} is damaged or truncated: {_first_line(error)}", page="corrupted-file") from None
    with np.errstate(invalid="ignore"):
        labels = values.astype(np.uint8)
    if not np.array_equal(labels, values):
        raise UsageError(f"{path} holds values that are no labels: expected whole numbers from 0 to 255")
    return np.ascontiguousarray(apply_orientation(labels, grid.orientation).transpose(2, 1, 0))


def to_file_grid(mask: NDArray[np.uint8], grid: NiftiGrid) -> NDArray[np.uint8]:
    """A mask ``[Z, H, W]`` of a study on the voxels of the NIfTI file that the study was read from."""
    return _file_axes(mask, grid.orientation).reshape(grid.shape)


def stem(path: Path) -> str:
    """The file's name without ``.nii`` or ``.nii.gz``."""
    name = path.name
    return name[: -len(".nii.gz")] if name.lower().endswith(".nii.gz") else path.stem


def _open(path: Path) -> Any:
    try:
        image = nib.load(path)
    except _DAMAGED:
        raise UsageError(
            f"{path} is not a readable NIfTI file: of another kind, damaged or truncated", page="corrupted-file"
        ) from None
    if not isinstance(image, nib.Nifti1Image):
        raise UsageError(f"{path} is not NIfTI but {type(image).__name__}: convert it, e.g. with dcm2niix")
    dtype = image.get_data_dtype()
    if not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        raise UsageError(f"{path} holds {dtype} values: expected whole or real numbers in Hounsfield units")
    if (unit := image.header.get_xyzt_units()[0]) not in ("mm", "unknown"):
        raise UsageError(f"{path} measures space in {unit}: expected millimetres, so convert it first")
    return image


def _orientation(affine: NDArray[np.float64], shape: tuple[int, ...], path: Path) -> NDArray[np.float64]:
    degenerate = not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9
    found = None if degenerate else io_orientation(affine)
    if found is None or np.isnan(found).any():
        raise UsageError(f"{path} has an affine that maps no volume: repair its sform or qform")
    orientation = np.asarray(ornt_transform(found, DISPLAY), np.float64)
    if len(shape) == 2 and orientation[2, 0] != 2:
        raise UsageError(f"{path} is a single slice that is not axial: expected an axial slice or a volume")
    return orientation


def _file_axes(volume: NDArray[Any], orientation: NDArray[np.float64]) -> NDArray[Any]:
    """A view of ``[Z, H, W]`` along the axes of the file."""
    back = np.empty_like(orientation)
    for axis, (target, flip) in enumerate(orientation):
        back[int(target)] = (axis, flip)
    return apply_orientation(volume.transpose(2, 1, 0), back)


def _arrivals(image: Any, study: Study, path: Path) -> Iterator[int]:
    """Fill the study's image from the file; the index of each slice, once it is there."""
    assert study.nifti is not None
    orientation = study.nifti.orientation
    volume = _file_axes(study.image, orientation)
    count, sliced = volume.shape[2], int(orientation[2, 0]) == 2
    lowest = int(INT16.max)
    for place, stored in enumerate(_stored_planes(image, volume.shape[:2], count, path)):
        # Plane by plane: the scaled values are float64, four times the size of what is kept.
        slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
        plane = to_hounsfield(stored, slope=slope, intercept=intercept, origin=str(path))
        volume[..., place] = plane
        lowest = min(lowest, int(plane.min()))
        if place == count - 1 and lowest > AIR_HU:
            raise UsageError(
                f"{path} is not chest CT in Hounsfield units: its lowest value is {lowest}, and the air in lungs lies "
                "near -850: restore its scaling (scl_slope, scl_inter), or save 8-bit slices as PNG and pass their "
                "--window"
            )
        if sliced:
            yield place if orientation[2, 1] > 0 else count - 1 - place
        elif place % scratch.AT_ONCE == 0:
            scratch.release(volume)
    if not sliced:
        yield from range(len(study.image))


def _stored_planes(image: Any, shape: tuple[int, ...], count: int, path: Path) -> Iterator[NDArray[Any]]:
    """The stored values of the file, a plane ``[x, y]`` after the other along its third axis, read as it goes."""
    dtype = np.dtype(image.dataobj.dtype)
    size = dtype.itemsize * shape[0] * shape[1]
    try:
        with ImageOpener(path) as file:
            file.seek(int(image.dataobj.offset))
            for _ in range(count):
                data = file.read(size)
                if len(data) < size:
                    raise EOFError("the file ends before its last slice")
                yield np.frombuffer(data, dtype).reshape(shape, order="F")
            # The checksum of a compressed file stands behind its last byte.
            file.read(1)
    except _DAMAGED as error:
        raise UsageError(f"{path} is damaged or truncated: {_first_line(error)}", page="corrupted-file") from None


def _notes(image: Any) -> tuple[str, ...]:
    if _codes(image) == (0, 0):
        return ("The file records no orientation (qform and sform codes are 0); NIfTI's default was taken",)
    return ()


def _codes(image: Any) -> tuple[int, int]:
    return int(image.header["qform_code"]), int(image.header["sform_code"])


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
