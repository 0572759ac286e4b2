"""What holds for every view, whatever the draw."""

import dataclasses
import math
from collections.abc import Generator
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from coronanet.engines.samples import UNKNOWN, Sample
from coronanet.training.augment import AIR_HU, Augmentation, augment
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

SIZE = (96, 96)
LUNG_HU, LESION_HU, TISSUE_HU = -900, -400, 100
#: The geometry of training, with the intensities left alone.
BEND = Augmentation(contrast=0.0, shift_hu=0.0, gamma=0.0, noise_hu=0.0, surroundings=0.0)
#: Nothing but quarter turns and flips.
STILL = dataclasses.replace(
    BEND,
    crop_to_lungs=0.0,
    smallest_view=1.0,
    largest_view=1.0,
    rotation_degrees=0.0,
    any_angle=0.0,
    aspect=0.0,
    elastic=0.0,
)


def thorax() -> Sample:
    """A slice whose lesion and lungs are thresholds of its intensities."""
    rows, columns = np.mgrid[:160, :192]
    image = np.full((160, 192), TISSUE_HU, np.int16)
    lung = ((rows - 80) / 55) ** 2 + ((columns - 90) / 70) ** 2 < 1
    image[lung] = LUNG_HU
    image[((rows - 60) / 20) ** 2 + ((columns - 60) / 25) ** 2 < 1] = LESION_HU
    lesion = image == LESION_HU
    return Sample(image, lesion.astype(np.uint8), "lesion", "made-1", lung.astype(np.uint8))


def away_from_borders(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a pixel and its neighbours have one label, so that no interpolation mixes two intensities."""
    kernel = np.ones((3, 3), np.uint8)
    inside = cv2.dilate(labels, kernel) == cv2.erode(labels, kernel)
    # Beyond the frame the labels are not known.
    inside[:1], inside[-1:], inside[:, :1], inside[:, -1:] = False, False, False, False
    return inside


@contextmanager
def geometry_alone() -> Generator[None]:
    """Views without blur, windows and noise, so that every pixel can be compared."""

    def leave(image: NDArray[np.float32], *_: object) -> NDArray[np.int16]:
        return image.astype(np.int16)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("coronanet.training.augment._jitter", leave)
        yield


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_labels_and_lungs_stay_thresholds_of_the_image(seed: int) -> None:
    with geometry_alone():
        view = augment(thorax(), SIZE, BEND, np.random.default_rng(seed))
    # Outside the slice lies air, thinner than the lungs; where the two meet anything may come out.
    within = cv2.erode((view.image >= LUNG_HU - 10).astype(np.uint8), np.ones((5, 5), np.uint8)) == 1
    inside = away_from_borders(view.labels) & away_from_borders(view.lung) & within
    lesion, air = (np.abs(view.image - value) < 50 for value in (LESION_HU, LUNG_HU))
    np.testing.assert_array_equal(lesion[inside], view.labels[inside] == 1)
    np.testing.assert_array_equal((lesion | air)[inside], view.lung[inside] == 1)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(32, 100), width=st.integers(32, 100))
def test_a_view_has_the_size_and_types_that_training_needs(seed: int, height: int, width: int) -> None:
    view = augment(thorax(), (height, width), Augmentation(), np.random.default_rng(seed))
    assert [part.shape for part in view] == [(height, width)] * 3
    assert [part.dtype for part in view] == [np.int16, np.uint8, np.uint8]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_the_same_draw_gives_the_same_view(seed: int) -> None:
    one, other = (augment(thorax(), SIZE, Augmentation(), np.random.default_rng(seed)) for _ in range(2))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_draw_gives_another_view() -> None:
    one, other = (augment(thorax(), SIZE, Augmentation(), np.random.default_rng(seed)) for seed in (0, 1))
    assert not np.array_equal(one.image, other.image)


def test_outside_the_slice_is_air_without_labels() -> None:
    wide = dataclasses.replace(STILL, smallest_view=3.0, largest_view=3.0)
    view = augment(dataclasses.replace(thorax(), lung=None), SIZE, wide, np.random.default_rng(0))
    assert np.mean(view.image == AIR_HU) > 0.5
    assert view.labels[view.image == AIR_HU].max() == 0


def test_slices_without_lungs_say_so() -> None:
    unlabelled = dataclasses.replace(thorax(), lung=None)
    assert (augment(unlabelled, SIZE, Augmentation(), np.random.default_rng(0)).lung == UNKNOWN).all()


def test_quarter_turns_and_flips_all_occur_and_nothing_else() -> None:
    """A shape without symmetry comes back as one of its eight forms, and as each of them."""
    labels = np.zeros(SIZE, np.uint8)
    labels[30:60, 30:40] = labels[50:60, 30:50] = 1
    square = Sample(np.where(labels == 1, TISSUE_HU, LUNG_HU).astype(np.int16), labels, "lesion", "made-1")
    forms = [_cut_out(np.rot90(form, turns)) for form in (labels, labels[:, ::-1]) for turns in range(4)]
    seen = np.zeros(8, int)
    for seed in range(80):
        shape = _cut_out(augment(square, SIZE, STILL, np.random.default_rng(seed)).labels)
        equal = [np.array_equal(shape, form) for form in forms]
        assert sum(equal) == 1
        seen += equal
    assert (seen > 0).all()


def test_any_angle_occurs() -> None:
    """The long side of a bar points everywhere, not only near the axes."""
    free = dataclasses.replace(STILL, any_angle=1.0)
    angles = np.array([_bar_angle(free, seed) for seed in range(200)])
    counts, _ = np.histogram(angles, bins=9, range=(0, 180))
    assert counts.min() >= 8, counts


def test_without_any_angle_the_tilt_is_small() -> None:
    tilted = dataclasses.replace(STILL, rotation_degrees=10.0)
    for seed in range(40):
        off_axis = (_bar_angle(tilted, seed) + 45) % 90 - 45
        assert abs(off_axis) < 11.5


@pytest.mark.parametrize("elastic", [0.0, 0.02, 0.06])
def test_elastic_bends_what_no_affine_map_bends(elastic: float) -> None:
    """How far the long edge of a bar is from a straight line, in pixels: the more, the stronger the field."""
    residual = np.mean([_straightness(dataclasses.replace(STILL, elastic=elastic), seed) for seed in range(12)])
    low, high = {0.0: (0.0, 0.05), 0.02: (0.3, 2.0), 0.06: (1.2, 6.0)}[elastic]
    assert low <= residual <= high


def test_crops_follow_the_lungs_where_they_are_known() -> None:
    always = dataclasses.replace(STILL, crop_to_lungs=1.0)
    view = augment(thorax(), SIZE, always, np.random.default_rng(0))
    # An ellipse fills pi / 4 of its box.
    assert float((view.lung == 1).mean()) == pytest.approx(math.pi / 4, abs=0.03)


def test_surroundings_are_drawn_around_the_body_and_never_on_it() -> None:
    body = thorax()
    assert body.lung is not None
    image = np.pad(body.image, 40)
    labels, lung = (np.pad(part, 40) for part in (body.labels, body.lung))
    outside = np.pad(np.zeros_like(body.labels), 40, constant_values=1)
    image[outside == 1] = AIR_HU
    sample = Sample(image, labels, "lesion", "made-1", lung)
    # The same draw bends a map of where there is no body.
    told = Sample(image, outside, "lesion", "made-1", lung)
    covered = 0
    for seed in range(20):
        with geometry_alone():
            bare, clad, around = (
                augment(one, SIZE, dataclasses.replace(BEND, surroundings=share), np.random.default_rng(seed))
                for one, share in ((sample, 0.0), (sample, 1.0), (told, 0.0))
            )
        np.testing.assert_array_equal(clad.labels, bare.labels)
        np.testing.assert_array_equal(clad.lung, bare.lung)
        changed = clad.image != bare.image
        inside = cv2.erode((around.labels == 0).astype(np.uint8), np.ones((3, 3), np.uint8)) == 1
        # What the sampling reads beyond the slice is no body either.
        assert not (changed & inside & (bare.image > AIR_HU + 100)).any()
        covered += bool(changed.any())
    assert covered >= 10


def test_contrast_window_and_noise_change_the_pixels_alone() -> None:
    jitter = dataclasses.replace(STILL, contrast=0.35, shift_hu=150.0, gamma=0.3, noise_hu=40.0)
    means = set[float]()
    for seed in range(20):
        still = augment(thorax(), SIZE, STILL, np.random.default_rng(seed))
        view = augment(thorax(), SIZE, jitter, np.random.default_rng(seed))
        np.testing.assert_array_equal(view.labels, still.labels)
        np.testing.assert_array_equal(view.lung, still.lung)
        means.add(round(float(view.image.mean()), 1))
    assert len(means) == 20


def _cut_out(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What is labelled, without what is around it: a view may also be shifted."""
    rows, columns = np.nonzero(labels)
    return labels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _bar(how: Augmentation, seed: int) -> NDArray[np.uint8]:
    labels = np.zeros(SIZE, np.uint8)
    labels[44:52, 24:72] = 1
    sample = Sample(np.zeros(SIZE, np.int16), labels, "lesion", "made-1")
    return augment(sample, SIZE, how, np.random.default_rng(seed)).labels


def _bar_angle(how: Augmentation, seed: int) -> float:
    """The direction of the bar's long side in degrees, 0 to 180."""
    points = np.argwhere(_bar(how, seed)).astype(float)
    values, vectors = np.linalg.eigh(np.cov(points.T))
    row, column = vectors[:, int(values.argmax())]
    return math.degrees(math.atan2(row, column)) % 180


def _straightness(how: Augmentation, seed: int) -> float:
    labels = _bar(how, seed)
    points = np.argwhere(labels).astype(float)
    if np.ptp(points[:, 0]) > np.ptp(points[:, 1]):
        labels = labels.T
    columns = np.flatnonzero(labels.any(axis=0))
    columns = columns[3:-3]
    middle = np.array([np.flatnonzero(labels[:, column]).mean() for column in columns])
    slope, offset = np.polyfit(columns, middle, 1)
    return float(np.abs(middle - (slope * columns + offset)).max())
