"""Where the voxels of a stack lie in the patient."""

import numpy as np
from numpy.typing import NDArray

from .stacks import Stack, headward

#: DICOM's patient axes run left, back, head; RAS runs right, front, head.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def geometry(stack: Stack) -> tuple[NDArray[np.float64], tuple[float, float, float] | None, list[str]]:
    """RAS affine of (column, row, slice), the spacing (None where one slice has no thickness), and notes.

    The slice axis follows the positions, not the normal, so that a tilted gantry lands where it was (DICOM PS3.3
    C.7.6.2.1.1 for the in-plane axes).
    """
    frames, between = stack.frames, stack.between_mm
    first, normal = frames[0], headward(frames[0])
    step = normal * (between or 1.0)
    notes: list[str] = []
    if len(frames) > 1:
        step = (frames[-1].position_mm - first.position_mm) / (len(frames) - 1)
        notes += _gap_notes(stack)
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
    return affine, None if between is None else (between, *first.spacing_mm), notes


def _gap_notes(stack: Stack) -> list[str]:
    gaps = stack.gaps_mm
    between = float(np.median(gaps))
    if (wide := int((gaps > 1.5 * between).sum())) > 0:
        return [
            f"{wide} gaps wider than the usual {between:.3g} mm between slices (the widest {gaps.max():.3g} mm): "
            "slices may be missing, volumes take their neighbours to stand for them"
        ]
    if np.ptp(gaps) > 0.05 * between:
        return [f"The distance between slices varies from {gaps.min():.3g} to {gaps.max():.3g} mm"]
    return []
