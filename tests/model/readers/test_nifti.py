"""NIfTI in any orientation, in and back, and what is refused."""

import gzip
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from coronanet.model.errors import UsageError
from coronanet.model.readers import Reading, find_inputs
from coronanet.model.readers.nifti import read_mask, to_file_grid
from coronanet.model.study import Study
from numpy.typing import NDArray

AXES = ["".join(letters) for order in permutations(("RL", "AP", "IS")) for letters in product(*order)]


def anatomy() -> NDArray[np.int16]:
    """[Z, H, W] as a study has it: every voxel different, and air below -300."""
    return np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5) * 10 - 900


def save(path: Path, image: NDArray[np.int16], axes: str) -> Path:
    """``image`` [Z, H, W] in display orientation as a NIfTI whose axes run towards ``axes``."""
    display = nib.Nifti1Image(image.transpose(2, 1, 0), np.diag([-0.7, -0.8, 2.5, 1.0]))
    transform = nib.orientations.ornt_transform(
        nib.io_orientation(display.affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    nib.save(display.as_reoriented(transform.astype(int).tolist()), path)
    return path


def read_one(path: Path) -> Study:
    (study,) = (found.open(Reading()).complete() for found in find_inputs(path))
    return study


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        read_one(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("axes", AXES)
def test_a_file_in_any_orientation_is_shown_alike_and_masks_return_to_its_voxels(tmp_path: Path, axes: str) -> None:
    path = save(tmp_path / "ct.nii", anatomy(), axes)
    study = read_one(path)
    np.testing.assert_array_equal(study.image, anatomy())
    assert study.spacing_mm == pytest.approx((2.5, 0.8, 0.7))
    assert study.affine is not None
    np.testing.assert_allclose(study.affine, np.diag([-0.7, -0.8, 2.5, 1.0]), atol=1e-6)
    assert study.nifti is not None
    mask = (study.image > 0).astype(np.uint8)
    np.testing.assert_array_equal(to_file_grid(mask, study.nifti), nib.Nifti1Image.from_filename(path).get_fdata() > 0)


def test_the_scaling_of_the_file_is_applied_and_rounded(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.arange(8, dtype=np.int16).reshape(2, 2, 2), np.diag([-1.0, -1, 1, 1]))
    image.header.set_slope_inter(0.5, -1000.0)
    nib.save(image, tmp_path / "ct.nii.gz")
    assert sorted(read_one(tmp_path / "ct.nii.gz").image.ravel()) == [-1000, -1000, -999, -998, -998, -998, -997, -996]


def test_the_name_loses_both_suffixes(tmp_path: Path) -> None:
    assert read_one(save(tmp_path / "p.01.nii.gz", anatomy(), "RAS")).name == "p.01"


def test_a_single_axial_slice_is_a_study_and_its_mask_has_two_axes(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.full((5, 4), -700, np.int16), np.diag([-1.0, -1, 3, 1])), tmp_path / "slice.nii")
    study = read_one(tmp_path / "slice.nii")
    assert study.image.shape == (1, 4, 5)
    assert study.nifti is not None
    assert to_file_grid(np.zeros((1, 4, 5), np.uint8), study.nifti).shape == (5, 4)


@pytest.mark.parametrize("shape", [(5, 4, 3, 1), (5, 4, 3, 1, 1), (5, 4, 1, 1)])
def test_axes_of_size_1_are_read_and_kept_in_the_mask(tmp_path: Path, shape: tuple[int, ...]) -> None:
    volume = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) * 10 - 900
    nib.save(nib.Nifti1Image(volume, np.diag([-1.0, -1, 3, 1])), tmp_path / "ct.nii")
    study = read_one(tmp_path / "ct.nii")
    assert study.image.shape == (shape[2], 4, 5)
    assert study.nifti is not None
    mask = to_file_grid((study.image > -500).astype(np.uint8), study.nifti)
    assert mask.shape == shape
    np.testing.assert_array_equal(mask, volume > -500)


def test_the_spacing_of_sheared_slices_is_across_them(tmp_path: Path) -> None:
    affine = np.array([[-0.7, 0, 0, 0], [0, -0.8, 1.5, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(anatomy().transpose(2, 1, 0), affine), tmp_path / "ct.nii")
    spacing = read_one(tmp_path / "ct.nii").spacing_mm
    assert spacing == pytest.approx((2.0, 0.8, 0.7))
    assert spacing is not None
    assert np.prod(spacing) == pytest.approx(abs(np.linalg.det(affine[:3, :3])))


def test_a_file_without_orientation_is_read_by_the_default_and_says_so(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(anatomy().transpose(2, 1, 0), None), tmp_path / "ct.nii")
    assert any("records no orientation" in note for note in read_one(tmp_path / "ct.nii").notes)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_numbers_are_refused(tmp_path: Path, value: float) -> None:
    volume = anatomy().astype(np.float32)
    volume[1, 2, 3] = value
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "ct.nii.gz")
    assert "NaN or infinite" in refusal(tmp_path / "ct.nii.gz")


def test_values_outside_int16_are_refused(tmp_path: Path) -> None:
    volume = anatomy().astype(np.float32)
    volume[0, 0, 0] = 40000
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "ct.nii")
    assert "between -32768 and 32767" in refusal(tmp_path / "ct.nii")


def test_greys_without_scaling_are_not_taken_for_hounsfield_units(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.arange(60, dtype=np.uint8).reshape(3, 4, 5), np.eye(4)), tmp_path / "grey.nii")
    assert "not chest CT in Hounsfield units" in refusal(tmp_path / "grey.nii")


def test_a_series_in_time_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), np.eye(4)), tmp_path / "ct.nii")
    assert "has 4 axes" in refusal(tmp_path / "ct.nii")


def test_a_single_slice_that_is_not_axial_is_refused(tmp_path: Path) -> None:
    coronal = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.full((5, 4), -700, np.int16), coronal), tmp_path / "ct.nii")
    assert "not axial" in refusal(tmp_path / "ct.nii")


def test_colour_volumes_are_refused(tmp_path: Path) -> None:
    rgb = np.zeros((2, 2, 2), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(rgb, np.eye(4)), tmp_path / "ct.nii")
    assert "expected whole or real numbers" in refusal(tmp_path / "ct.nii")


def test_other_units_than_millimetres_are_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(anatomy(), np.eye(4))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "ct.nii")
    assert "in meter" in refusal(tmp_path / "ct.nii")


def test_a_degenerate_affine_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "ct.nii", anatomy(), "RAS")
    data = bytearray(path.read_bytes())
    data[280:296] = bytes(16)  # the first row of the sform
    path.write_bytes(data)
    assert "maps no volume" in refusal(path)


def test_a_header_that_claims_a_huge_volume_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header.set_data_shape((30000, 30000, 30000))
    header["sform_code"], header["srow_x"], header["srow_y"], header["srow_z"] = (
        1,
        (1, 0, 0, 0),
        (0, 1, 0, 0),
        (0, 0, 1, 0),
    )
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "bomb.nii").write_bytes(header.binaryblock + bytes(4))
    assert "too large" in refusal(tmp_path / "bomb.nii")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"ct{suffix}", anatomy(), "LPS")
    path.write_bytes(path.read_bytes()[:-20])
    assert "truncated" in refusal(path)


def test_a_header_that_memory_cannot_hold_is_a_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(*_: object) -> None:
        raise MemoryError

    path = save(tmp_path / "ct.nii", anatomy(), "LPS")
    monkeypatch.setattr(nib, "load", give_up)
    assert "not a readable NIfTI" in refusal(path)


@pytest.mark.parametrize("content", [b"", b"not a volume", gzip.compress(b"not a volume", mtime=0)])
def test_what_is_nifti_only_by_name_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ct.nii.gz").write_bytes(content)
    assert "not a readable NIfTI" in refusal(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SPL"])
def test_a_mask_is_read_as_its_image_is_shown(tmp_path: Path, axes: str) -> None:
    study = read_one(save(tmp_path / "ct.nii", anatomy(), axes))
    labels = (anatomy() % 4).astype(np.int16)
    assert study.nifti is not None
    mask = read_mask(save(tmp_path / "mask.nii.gz", labels, axes), study.nifti)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, labels)


@pytest.mark.parametrize(
    ("labels", "affine", "message"),
    [
        (np.zeros((5, 4, 2)), np.diag([-0.7, -0.8, 2.5, 1.0]), r"shape \[5, 4, 3\], got \[5, 4, 2\]"),
        (np.zeros((5, 4, 3)), np.diag([-0.7, -0.8, 5.0, 1.0]), "not on the grid of its image"),
        (np.full((5, 4, 3), 0.5), np.diag([-0.7, -0.8, 2.5, 1.0]), "values that are no labels"),
        (np.full((5, 4, 3), np.nan), np.diag([-0.7, -0.8, 2.5, 1.0]), "values that are no labels"),
        (np.full((5, 4, 3), -1.0), np.diag([-0.7, -0.8, 2.5, 1.0]), "values that are no labels"),
    ],
)
def test_a_mask_of_another_grid_or_of_other_values_is_refused(
    tmp_path: Path, labels: NDArray[np.float64], affine: NDArray[np.float64], message: str
) -> None:
    study = read_one(save(tmp_path / "ct.nii", anatomy(), "LPS"))
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "mask.nii")
    assert study.nifti is not None
    with pytest.raises(UsageError, match=message):
        read_mask(tmp_path / "mask.nii", study.nifti)


def test_a_truncated_mask_is_refused(tmp_path: Path) -> None:
    study = read_one(save(tmp_path / "ct.nii", anatomy(), "LPS"))
    path = save(tmp_path / "mask.nii", (anatomy() % 4).astype(np.int16), "LPS")
    path.write_bytes(path.read_bytes()[:-20])
    assert study.nifti is not None
    with pytest.raises(UsageError, match="damaged or truncated"):
        read_mask(path, study.nifti)
