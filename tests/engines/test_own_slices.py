"""Slices of the user's own: a plain folder, read as it says, or refused by name."""

from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pytest
from coronanet.engines.own_slices import MOST, find_calibration, find_slices, own_slices
from coronanet.model.errors import UsageError
from coronanet.model.readers.windows import NAMED_WINDOWS
from numpy.typing import NDArray

LUNG = NAMED_WINDOWS["lung"]
AFFINE = np.diag([-0.7, -0.7, 5.0, 1.0])


def picture(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def volume(path: Path, values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, AFFINE), path)


def grey(height: int = 40, width: int = 50) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 255, (height, width), np.uint8)


def test_pictures_of_any_size_and_their_masks_are_read_in_order(tmp_path: Path) -> None:
    for name, height in (("c", 40), ("b", 50), ("a", 60)):
        picture(tmp_path / "images" / f"{name}.png", grey(height))
        picture(tmp_path / "masks" / f"{name}.png", grey(height) % 2)
    slices = own_slices(tmp_path, LUNG)
    assert [image.shape for image in slices.images] == [(60, 50), (40, 50)]
    assert [image.dtype for image in slices.images] == [np.int16] * 2
    np.testing.assert_array_equal(slices.samples[1].labels, grey() % 2)
    assert (slices.name, slices.real) == ("2 slices of the user's own with masks", True)


def test_without_masks_there_are_none(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg", grey())
    assert not own_slices(tmp_path, LUNG).has_truth


def test_of_many_some_are_taken_evenly_with_their_own_masks(tmp_path: Path) -> None:
    for name in ("one", "three", "two"):
        values = np.full((8, 9, 40), -900, np.int16) + np.arange(40, dtype=np.int16)
        volume(tmp_path / "images" / f"{name}.nii.gz", values)
        volume(tmp_path / "masks" / f"{name}.nii.gz", (values + 900) % 3)
    slices = own_slices(tmp_path, None)
    assert len(slices.samples) == MOST
    for image, mask in ((sample.image, sample.labels) for sample in slices.samples):
        np.testing.assert_array_equal(mask, (image + 900) % 3)
    assert {int(image[0, 0]) for image in slices.images} >= {-900, -861}


def test_more_pictures_than_are_looked_at_are_thinned(tmp_path: Path) -> None:
    for number in range(2 * MOST + 5):
        picture(tmp_path / "images" / f"{number:02}.png", np.full((8, 8), number, np.uint8))
    levels = [int(image[0, 0]) for image in own_slices(tmp_path, LUNG).images]
    assert len(levels) == MOST
    assert levels == sorted(levels)


def test_pictures_without_a_window_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", grey())
    with pytest.raises(UsageError, match="--window -1350 150"):
        own_slices(tmp_path, None)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, r"a\.png is missing: where there are masks, every image has one"),
        (grey(41) % 2, r"a\.png is 41 x 50 pixels, its image 40 x 50"),
        ((grey() % 2) * 255, r"a\.png holds the value 255: expected label values, 0 to 3"),
    ],
)
def test_a_mask_that_does_not_fit_its_image_is_named(
    tmp_path: Path, mask: NDArray[np.uint8] | None, message: str
) -> None:
    picture(tmp_path / "images" / "a.png", grey())
    picture(tmp_path / "masks" / "other.png", grey())
    if mask is not None:
        picture(tmp_path / "masks" / "a.png", mask)
    with pytest.raises(UsageError, match=message):
        own_slices(tmp_path, LUNG)


def test_an_empty_folder_says_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UsageError, match="holds nothing that can be read: expected"):
        own_slices(tmp_path, LUNG)


def test_a_folder_with_images_is_ones_own_and_any_other_that_of_the_data_sets(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="pass the folder of the data sets"):
        find_slices(tmp_path, None, "binary_segmentation")
    with pytest.raises(UsageError, match="expected a folder 'images' in --data DIR"):
        find_slices(tmp_path, LUNG, "binary_segmentation")
    picture(tmp_path / "images" / "a.png", grey())
    assert find_slices(tmp_path, LUNG, "binary_segmentation").name.startswith("1 slice of the user's own")


def test_int8_is_not_judged_by_the_studies_that_it_was_calibrated_on(tmp_path: Path) -> None:
    for name in "abcde":
        picture(tmp_path / "images" / f"{name}.png", grey())
    judged, calibrated = find_slices(tmp_path, LUNG, "binary_segmentation"), find_calibration(tmp_path, LUNG)
    assert [sample.group for sample in judged.samples] == ["a", "c", "e"]
    assert [sample.group for sample in calibrated.samples] == ["b", "d"]


def test_of_a_single_study_every_other_slice_is_judged_and_the_name_says_so(tmp_path: Path) -> None:
    volume(tmp_path / "images" / "one.nii.gz", np.full((8, 9, 7), -900, np.int16) + np.arange(7, dtype=np.int16))
    judged, calibrated = find_slices(tmp_path, None, "binary_segmentation"), find_calibration(tmp_path, None)
    assert [int(image[0, 0]) for image in judged.images] == [-900, -898, -896, -894]
    assert [int(image[0, 0]) for image in calibrated.images] == [-899, -897, -895]
    for slices in (judged, calibrated):
        assert slices.name.endswith("slices of the user's own, every other one of a single study")


def test_a_single_slice_leaves_none_for_int8(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", grey())
    with pytest.raises(UsageError, match=r"images holds one slice, .* int8 needs others .*#calibration-data"):
        find_calibration(tmp_path, LUNG)
