"""The picture: the right slices, the right colours on the right side, readable at every size."""

import numpy as np
import pytest
from coronanet.model.assessment import assess
from coronanet.model.findings import Decisions, SliceFindings
from coronanet.model.phantom import Phantom, make_labelled_phantom
from coronanet.model.study import Study
from coronanet.serving.overlay import (
    ALARM,
    LESION_COLOUR,
    TYPE_COLOURS,
    Canvas,
    choose_slices,
    render_montage,
    render_overlay,
)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_labelled_phantom(size=128, slices=24)


def draw(study: Study, types: Canvas, lung: Canvas, lesion: Canvas | None = None) -> Canvas:
    probability = np.full(len(types), 0.5, np.float32)
    decisions = Decisions(probability, (types > 0).astype(np.uint8) if lesion is None else lesion, types, lung)
    assessment = assess(study, decisions)
    return render_overlay(study, assessment, render_montage(study, decisions, assessment.slices))


def near(picture: Canvas, colour: tuple[int, int, int]) -> Canvas:
    """Where this colour stands unmixed, but for the softness of a line: an outline, a swatch's edge, text."""
    return (np.abs(picture.astype(int) - colour).max(axis=2) < 40).astype(np.uint8)


def test_a_volume_becomes_a_montage_with_each_type_in_its_colour(phantom: Phantom) -> None:
    picture = draw(phantom.study, phantom.lesion_types, phantom.lung_mask)
    assert picture.dtype == np.uint8
    assert picture.shape[1] > 1400
    montage = picture[112:]
    for colour in TYPE_COLOURS.values():
        assert near(montage, colour).sum() > 50


def test_without_lesions_there_are_their_colours_in_the_legend_only(phantom: Phantom) -> None:
    picture = draw(phantom.study, np.zeros_like(phantom.lesion_types), phantom.lung_mask)
    for colour in TYPE_COLOURS.values():
        assert near(picture[:112], colour).any()
        assert not near(picture[112:], colour).any()


def test_a_phantom_is_called_synthetic_in_the_picture_and_a_patient_is_not(phantom: Phantom) -> None:
    empty = np.zeros_like(phantom.lesion_types)
    patient = Study("p", phantom.study.image, "nifti", phantom.study.spacing_mm, phantom.study.affine)
    assert near(draw(phantom.study, empty, phantom.lung_mask)[:112], ALARM).any()
    assert not near(draw(patient, empty, phantom.lung_mask)[:112], ALARM).any()


def test_a_lesion_is_drawn_where_it_is() -> None:
    image = np.full((1, 200, 400), -800, np.int16)
    types = np.zeros((1, 200, 400), np.uint8)
    types[0, 20:60, 300:380] = 2  # upper right
    picture = draw(Study("x", image, "image", window_hu=(-1350, 150)), types, np.zeros_like(types))
    rows, columns = np.nonzero(near(picture[112:-40], TYPE_COLOURS[2]))
    scale = 900 / 400
    assert rows.min() == pytest.approx(20 * scale, abs=4)
    assert rows.max() == pytest.approx(60 * scale, abs=4)
    assert columns.min() == pytest.approx(8 + 300 * scale, abs=4)
    assert columns.max() == pytest.approx(8 + 380 * scale, abs=4)


def test_the_lesion_of_the_binary_network_is_outlined_where_the_types_say_nothing(phantom: Phantom) -> None:
    none, lesion = np.zeros_like(phantom.lesion_types), (phantom.lesion_types > 0).astype(np.uint8)
    assert near(draw(phantom.study, none, phantom.lung_mask, lesion)[112:], LESION_COLOUR).sum() > 50
    picture = draw(phantom.study, none, phantom.lung_mask, none)
    assert not near(picture[112:], LESION_COLOUR).any()
    assert near(picture[:112], LESION_COLOUR).any()


def test_its_outline_is_seen_beside_the_types_where_the_networks_agree(phantom: Phantom) -> None:
    assert near(draw(phantom.study, phantom.lesion_types, phantom.lung_mask)[112:], LESION_COLOUR).sum() > 50


@pytest.mark.parametrize("shape", [(1, 64, 64), (1, 2000, 33), (1, 33, 2000), (2, 64, 64), (3, 40, 90), (40, 64, 64)])
def test_any_shape_gives_a_picture_of_sane_size(shape: tuple[int, int, int]) -> None:
    image = np.full(shape, -800, np.int16)
    picture = draw(
        Study("x", image, "image", window_hu=(-1350, 150)), np.zeros(shape, np.uint8), np.ones(shape, np.uint8)
    )
    assert 900 <= picture.shape[1] <= 1600
    assert picture.shape[0] <= 2600


def found(lung: list[int], lesion: list[int]) -> list[SliceFindings]:
    return [
        SliceFindings(index + 1, 0.5, lung_pixels, lesion[index], {}, None) for index, lung_pixels in enumerate(lung)
    ]


def test_slices_are_chosen_through_the_lungs_with_the_most_lesion_among_them() -> None:
    lung = [0] * 20 + [1000] * 60 + [0] * 20
    lesion = [0] * 100
    lesion[41], lesion[42], lesion[43], lesion[5] = 50, 60, 70, 99
    chosen = choose_slices(found(lung, lesion))
    assert len(chosen) == 12
    assert chosen == sorted(set(chosen))
    assert {41, 42, 43} <= set(chosen)
    assert all(20 <= index < 80 for index in chosen)
    assert chosen[0] <= 26
    assert chosen[-1] >= 73


def test_a_short_study_is_shown_whole_and_one_without_lungs_evenly() -> None:
    assert choose_slices(found([10] * 5, [0] * 5)) == [0, 1, 2, 3, 4]
    assert len(choose_slices(found([0] * 50, [0] * 50))) == 12
