"""A mask as a compressed NIfTI file, written slice by slice: neither the file nor the mask is ever held whole."""

import zlib
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from ..model.readers.nifti import to_file_grid
from ..model.scratch import AT_ONCE, release
from ..model.study import Study

#: NIfTI's qform and sform codes of coordinates in the scanner, where the input has none.
SCANNER = (1, 1)
#: zlib's window of 32 kB, in gzip's format; with no time of writing in it, so that equal masks are equal files.
GZIP = 31
#: Where a NIfTI-1 file of no extensions has its voxels.
VOXELS_AT = 352


def write_mask(path: Path, mask: NDArray[np.uint8], study: Study) -> None:
    """A mask ``[Z, H, W]`` on the voxels of the NIfTI file its study came from, else on the study's own, in RAS mm."""
    if study.nifti is not None:
        voxels, affine, codes = to_file_grid(mask, study.nifti), study.nifti.affine, study.nifti.codes
    else:
        voxels, affine, codes = mask.transpose(2, 1, 0), study.affine, SCANNER
    # Masks are runs of equal values: nothing but these is looked for, which is faster than zlib's fastest, and smaller.
    deflate = zlib.compressobj(1, zlib.DEFLATED, GZIP, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    planes = voxels.reshape(*voxels.shape[:2], -1)
    with path.open("wb") as file:
        file.write(deflate.compress(_header(voxels.shape, affine, codes)))
        for index in range(planes.shape[2]):
            file.write(deflate.compress(planes[..., index].tobytes(order="F")))
            if index % AT_ONCE == AT_ONCE - 1:
                release(mask)
        file.write(deflate.flush())


def _header(shape: tuple[int, ...], affine: NDArray[np.float64] | None, codes: tuple[int, int]) -> bytes:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(shape)
    # Some programs read the one, some the other.
    header.set_qform(affine, codes[0])
    header.set_sform(affine, codes[1])
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    header["vox_offset"] = VOXELS_AT
    written = BytesIO()
    header.write_to(written)
    return written.getvalue().ljust(VOXELS_AT, b"\0")
