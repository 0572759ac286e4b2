"""The synthetic chest: the same for the same seed, plausible in Hounsfield units, true to its own labels."""

import numpy as np
import pytest
from coronanet.model import phantom as module
from coronanet.model.errors import UsageError
from coronanet.model.phantom import NOTE, Phantom, make_labelled_phantom, make_phantom


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_labelled_phantom(size=256, slices=12)


def test_it_is_the_same_for_the_same_seed_and_another_for_another(phantom: Phantom) -> None:
    module._draw.cache_clear()  # pyright: ignore[reportPrivateUsage]
    np.testing.assert_array_equal(make_phantom(size=256, slices=12).image, phantom.study.image)
    assert (make_phantom(size=256, slices=12, seed=1).image != phantom.study.image).mean() > 0.5


def test_what_a_caller_does_to_it_reaches_no_other() -> None:
    make_phantom(size=64, slices=2).image[:] = 0
    assert make_phantom(size=64, slices=2).image.any()


def test_it_is_a_study_that_says_it_is_synthetic(phantom: Phantom) -> None:
    study = phantom.study
    assert study.image.shape == (12, 256, 256)
    assert study.image.dtype == np.int16
    assert (study.kind, study.notes) == ("phantom", (NOTE,))
    assert "SYNTHETIC" in NOTE
    assert "synthetic" in study.name
    assert study.spacing_mm == pytest.approx((20.0, 356 / 256, 356 / 256))
    assert study.affine is not None
    column, row, between = np.linalg.norm(study.affine[:3, :3], axis=0)
    assert (between, row, column) == pytest.approx(study.spacing_mm)


def test_its_tissues_have_the_densities_of_a_chest(phantom: Phantom) -> None:
    image, types, lung = phantom.study.image, phantom.lesion_types, phantom.lung_mask > 0
    assert -950 < np.median(image[lung & (types == 0)]) < -780
    assert -700 < np.median(image[types == 1]) < -450
    assert -100 < np.median(image[types == 2]) < 100
    assert -20 < np.median(image[types == 3]) < 40
    assert np.median(image[:, :8]) == pytest.approx(-1000, abs=10)
    assert (image > 350).any(axis=(1, 2)).all()


def test_its_labels_fit_each_other(phantom: Phantom) -> None:
    types, lung = phantom.lesion_types, phantom.lung_mask > 0
    assert set(np.unique(types)) == {0, 1, 2, 3}
    assert lung[(types == 1) | (types == 2)].all()
    assert not lung[types == 3].any()
    np.testing.assert_array_equal(phantom.lesion_mask, types > 0)
    assert lung.any(axis=(1, 2)).all()
    left = types == 3
    assert left[:, :, 128:].any()
    assert not left[:, :, :128].any()


@pytest.mark.parametrize(("size", "slices"), [(8, 4), (4096, 4), (128, 0)])
def test_a_senseless_size_is_refused(size: int, slices: int) -> None:
    with pytest.raises(UsageError, match="64 to 1024 pixels"):
        make_phantom(size=size, slices=slices)
