"""A DICOM series, whole and in order, as int16 HU; pydicom reads the files."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder

from ..errors import UsageError
from ..study import Study
from .dicom_frames import DAMAGED, Frame, Header, quiet, read_frames, read_header
from .hounsfield import check_size, to_hounsfield

#: DICOM's patient axes run left, back, head; RAS runs right, front, head.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
#: cos of the largest angle, 45 degrees, between the slices' normal and the body's axis that is still called axial.
AXIAL = 0.7
SAME_MM = 1e-2


def read_series(paths: Sequence[Path], *, name: str, origin: Path) -> Study:
    """The largest axial CT series among ``paths``; what is left out is said in the notes.

    Args:
        paths: DICOM files, in any order, of any series.
        name: how the outputs are called.
        origin: the file or folder, for messages.

    Raises:
        UsageError: a file is damaged, none is axial CT, or the slices of the series do not make one volume.
    """
    headers, notes = _largest_series([read_header(path) for path in paths], origin)
    frames = [frame for header in headers for frame in read_frames(header)]
    _check_uniform(frames, origin)
    frames, order_notes = _in_order(frames)
    affine, spacing_mm, positions_mm, geometry_notes = _geometry(frames)
    check_size(len(frames), *frames[0].size, origin=str(origin))
    if any(frame.unspecified_units for frame in frames):
        notes.append("The header leaves the unit open (rescale type US); read as the Hounsfield units that CT is in")
    return Study(
        name,
        _pixels(frames),
        "dicom",
        spacing_mm=spacing_mm,
        affine=affine,
        notes=(*notes, *order_notes, *geometry_notes),
        positions_mm=positions_mm,
    )


def _largest_series(headers: Sequence[Header], origin: Path) -> tuple[list[Header], list[str]]:
    series: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        if header.is_ct_image and not header.is_localizer:
            series[header.series].append(header)
    if not series:
        kinds = ", ".join(sorted({"CT localizer" if h.is_localizer else h.modality for h in headers}))
        raise UsageError(f"{origin} is not axial CT (it holds {kinds}): expected a chest CT series")
    sizes = {uid: sum(header.frames for header in members) for uid, members in series.items()}
    largest = max(sizes, key=lambda uid: (sizes[uid], uid))
    notes: list[str] = []
    if len(series) > 1:
        others = ", ".join(f"{_short(uid)} with {sizes[uid]}" for uid in sorted(series) if uid != largest)
        notes.append(
            f"{len(series)} CT series lie here; the largest was read ({_short(largest)} with {sizes[largest]} slices), "
            f"left out: {others}"
        )
    left = Counter(
        "CT localizer" if h.is_localizer else h.modality for h in headers if h.is_localizer or not h.is_ct_image
    )
    if left:
        notes.append("Left out: " + ", ".join(f"{count} {kind}" for kind, count in sorted(left.items())))
    return series[largest], notes


def _short(uid: str) -> str:
    """A series without its UID, which can lead back to the patient."""
    return "series " + hashlib.sha256(uid.encode()).hexdigest()[:6]


def _check_uniform(frames: Sequence[Frame], origin: Path) -> None:
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        listed = ", ".join(f"{rows} x {columns}" for rows, columns in sizes)
        raise UsageError(f"{origin} mixes slices of different sizes ({listed}): expected one size within a series")
    first = frames[0]
    for frame in frames:
        turned = max(np.abs(frame.row_axis - first.row_axis).max(), np.abs(frame.column_axis - first.column_axis).max())
        if turned > 1e-2 or not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=1e-3):
            raise UsageError(
                f"{origin} mixes slices of different orientation or pixel spacing ({frame.path.name} differs): "
                "expected one stack of slices"
            )
    if abs(first.normal[2]) < AXIAL:
        raise UsageError(f"{origin} is not axial (a coronal or sagittal view): expected the axial CT series")


def _in_order(frames: Sequence[Frame]) -> tuple[list[Frame], list[str]]:
    """Feet to head along the slices' normal, one frame a position, copies of one instance dropped."""
    notes: list[str] = []
    unique = {frame.instance: frame for frame in frames}
    if len(unique) < len(frames):
        notes.append(f"{len(frames) - len(unique)} files are copies of another slice; each slice was read once")
    normal = _headward(frames[0])
    ordered = sorted(unique.values(), key=lambda frame: (float(frame.position_mm @ normal), frame.order))
    kept: list[Frame] = []
    for _, group in _by_position(ordered, normal):
        kept.append(min(group, key=lambda frame: frame.order))
    if len(kept) < len(ordered):
        notes.append(
            f"{len(ordered) - len(kept)} slices lie at a position that another slice has; at each the first by "
            "acquisition and instance number was read"
        )
    return kept, notes


def _by_position(ordered: Sequence[Frame], normal: NDArray[np.float64]) -> list[tuple[float, list[Frame]]]:
    groups: list[tuple[float, list[Frame]]] = []
    for frame in ordered:
        place = float(frame.position_mm @ normal)
        if groups and place - groups[-1][0] < SAME_MM:
            groups[-1][1].append(frame)
        else:
            groups.append((place, [frame]))
    return groups


def _headward(frame: Frame) -> NDArray[np.float64]:
    normal = frame.normal
    return normal if normal[2] > 0 else -normal


def _geometry(
    frames: Sequence[Frame],
) -> tuple[NDArray[np.float64], tuple[float, float, float] | None, NDArray[np.float64] | None, list[str]]:
    """RAS affine of (column, row, slice), the spacing (None where one slice has no thickness), the positions of the
    slices along their normal (None where they are evenly apart), and notes.

    The slice axis follows the positions, not the normal, so that a tilted gantry lands where it was (DICOM PS3.3
    C.7.6.2.1.1 for the in-plane axes).
    """
    first = frames[0]
    normal = _headward(first)
    notes: list[str] = []
    between: float | None = first.thickness_mm
    step = normal * (between or 1.0)
    positions: NDArray[np.float64] | None = None
    if len(frames) > 1:
        places = np.array([float(frame.position_mm @ normal) for frame in frames])
        gaps = np.diff(places)
        between = float(np.median(gaps))
        step = (frames[-1].position_mm - first.position_mm) / (len(frames) - 1)
        if np.ptp(gaps) > SAME_MM:
            positions = places
        if (wide := int((gaps > 1.5 * between).sum())) > 0:
            notes.append(
                f"{wide} gaps wider than the usual {between:.3g} mm between slices (the widest {gaps.max():.3g} mm): "
                "slices may be missing, volumes take their neighbours to stand for them"
            )
        elif np.ptp(gaps) > 0.05 * between:
            notes.append(f"The distance between slices varies from {gaps.min():.3g} to {gaps.max():.3g} mm")
        if np.linalg.norm(step - (step @ normal) * normal) > 0.02 * np.linalg.norm(step):
            notes.append("The slices are shifted against each other (a tilted gantry)")
    elif between is None:
        notes.append("A single slice without thickness: there are no volumes, and masks are placed as 1 mm thick")
    if np.abs(first.row_axis - (1, 0, 0)).max() > 0.7 or np.abs(first.column_axis - (0, 1, 0)).max() > 0.7:
        notes.append("The slices are stored turned or mirrored against the usual view; they are read as stored")
    affine = np.eye(4)
    affine[:3, 0] = LPS_TO_RAS @ first.row_axis * first.spacing_mm[1]
    affine[:3, 1] = LPS_TO_RAS @ first.column_axis * first.spacing_mm[0]
    affine[:3, 2] = LPS_TO_RAS @ step
    affine[:3, 3] = LPS_TO_RAS @ first.position_mm
    return affine, None if between is None else (between, *first.spacing_mm), positions, notes


def _pixels(frames: Sequence[Frame]) -> NDArray[np.int16]:
    volume = np.empty((len(frames), *frames[0].size), np.int16)
    places: dict[Path, list[int]] = defaultdict(list)
    for place, frame in enumerate(frames):
        places[frame.path].append(place)
    for path, here in places.items():
        stored = _decode(path)
        shape = (stored.shape[-2], stored.shape[-1])
        if stored.ndim not in (2, 3) or shape != frames[here[0]].size:
            raise UsageError(
                f"{path} decodes to {list(stored.shape)} pixels, not to what its header says: copy it again"
            )
        for place in here:
            frame = frames[place]
            values = stored if stored.ndim == 2 else stored[frame.index]
            volume[place] = to_hounsfield(values, slope=frame.slope, intercept=frame.intercept, origin=str(path))
    return volume


def _decode(path: Path) -> NDArray[Any]:
    try:
        with quiet():
            dataset = pydicom.dcmread(path)
            syntax = dataset.file_meta.TransferSyntaxUID
            if syntax.is_compressed and not get_decoder(syntax).is_available:
                raise UsageError(
                    f"{path} is compressed as {syntax.name}, which needs a decoder: "
                    "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
                )
            return dataset.pixel_array
    except (*DAMAGED, RuntimeError) as error:
        raise UsageError(
            f"{path} is truncated or damaged: its pixels cannot be decoded ({type(error).__name__})"
        ) from None
