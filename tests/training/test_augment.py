"""Image and labels are bent together, in Hounsfield units, and a seed decides how."""

import numpy as np
import pytest
from coronanet.training.augment import AIR_HU, Augmentation, augment
from coronanet.training.samples import Sample

STILL = Augmentation(
    crop_to_lungs=0.0,
    smallest_view=1.0,
    largest_view=1.0,
    rotation_degrees=0.0,
    aspect=0.0,
    elastic=0.0,
    contrast=0.0,
    shift_hu=0.0,
    noise_hu=0.0,
)
DENSE_HU = 100


def striped(height: int = 96, width: int = 128) -> Sample:
    """A slice whose labels can be read off its pixels."""
    image = np.full((height, width), -800, np.int16)
    image[: height // 3, : width // 4] = DENSE_HU
    return Sample(image, (image == DENSE_HU).astype(np.uint8), "lesion", "made-1", lungs=(0, 0, height, width))


@pytest.mark.parametrize("seed", range(8))
def test_labels_follow_the_pixels_through_every_bend(seed: int) -> None:
    bend = Augmentation(contrast=0.0, shift_hu=0.0, noise_hu=0.0)
    image, labels = augment(striped(), (128, 128), bend, np.random.default_rng(seed))
    assert image.dtype == np.int16
    assert labels.dtype == np.uint8
    assert image.shape == labels.shape == (128, 128)
    dense = image > (DENSE_HU - 800) / 2
    assert np.mean(dense != labels.astype(bool)) < 0.02


def test_quarter_turns_and_mirrors_all_occur() -> None:
    """The corner that is marked must turn up in each corner, along each side."""
    seen = set[tuple[bool, bool, bool]]()
    for seed in range(60):
        _, labels = augment(striped(96, 96), (96, 96), STILL, np.random.default_rng(seed))
        rows, columns = np.nonzero(labels)
        seen.add((rows.mean() < 48, columns.mean() < 48, bool(np.ptp(rows) > np.ptp(columns))))
    assert len(seen) == 8


def test_a_seed_decides_the_view() -> None:
    views = [augment(striped(), (64, 64), Augmentation(), np.random.default_rng(seed))[0] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])


def test_outside_the_slice_is_air() -> None:
    wide = Augmentation(
        crop_to_lungs=0.0, smallest_view=3.0, largest_view=3.0, contrast=0.0, shift_hu=0.0, noise_hu=0.0
    )
    image, labels = augment(striped(), (64, 64), wide, np.random.default_rng(0))
    assert np.mean(image == AIR_HU) > 0.5
    assert labels[image == AIR_HU].max() == 0
