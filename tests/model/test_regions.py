"""Where a pixel lies, from the orientation that was recorded."""

from dataclasses import replace

import numpy as np
import pytest
from coronanet.model.regions import LEFT, RIGHT, heights_mm, midline_mm, share_within, sides, slice_edges_mm
from coronanet.model.study import NiftiGrid, Study
from numpy.typing import NDArray

#: Columns run to the patient's left, rows to the back: -x and -y in RAS.
USUAL = np.diag([-2.0, -2.0, 5.0, 1.0])


def body(affine: NDArray[np.float64] | None = USUAL, *, first: int = 2, last: int = 18) -> Study:
    """Three slices of 10 x 20 pixels, body from one column to another."""
    image = np.full((3, 10, 20), -1000, np.int16)
    image[:, :, first:last] = 40
    return Study("x", image, "dicom", (5.0, 2.0, 2.0), affine)


def side_of(study: Study, lung: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    midline = midline_mm(study)
    assert midline is not None
    return sides(study, 0, np.zeros((10, 20), np.bool_) if lung is None else lung, midline)


def test_columns_run_from_right_to_left_where_the_affine_says_so() -> None:
    side = side_of(body())
    assert (side[:, :10] == RIGHT).all()
    assert (side[:, 10:] == LEFT).all()


def test_a_mirrored_series_has_its_right_on_the_other_side() -> None:
    side = side_of(body(np.diag([2.0, -2.0, 5.0, 1.0])))
    assert (side[:, :10] == LEFT).all()
    assert (side[:, 10:] == RIGHT).all()


def test_a_series_stored_on_its_side_is_divided_along_its_rows() -> None:
    turned = np.zeros((4, 4))
    turned[0, 1], turned[1, 0], turned[2, 2], turned[3, 3] = -2.0, -2.0, 5.0, 1.0
    study = body(turned, first=0, last=20)
    side = side_of(study)
    assert (side[:5] == RIGHT).all()
    assert (side[5:] == LEFT).all()


def test_the_midline_is_the_bodys_wherever_it_lies_in_the_picture() -> None:
    study = body(first=8, last=20)
    assert midline_mm(study) == pytest.approx(-2.0 * 13.5)
    assert (side_of(study)[:, 13] == RIGHT).all()
    assert (side_of(study)[:, 14] == LEFT).all()


def test_there_is_no_midline_without_orientation_or_body() -> None:
    assert midline_mm(body(None)) is None
    default = NiftiGrid(USUAL, (20, 10, 3), np.eye(3), (0, 0))
    assert midline_mm(replace(body(), nifti=default)) is None
    assert midline_mm(replace(body(), nifti=replace(default, codes=(0, 1)))) is not None
    assert midline_mm(body(first=5, last=5)) is None


@pytest.mark.parametrize(("last", "whole"), [(11, True), (15, False)])
def test_a_lung_that_reaches_a_little_over_stays_whole_and_lungs_that_touch_are_cut(last: int, whole: bool) -> None:
    lung = np.zeros((10, 20), np.bool_)
    lung[3:7, 1:10] = True
    lung[5, 10:last] = True
    lung[3:7, 11:last] |= last > 11
    side = side_of(body(), lung)
    assert (side[lung] == RIGHT).all() == whole
    assert (side[0, 10:] == LEFT).all()


def test_a_slice_stands_for_the_space_half_way_to_its_neighbours() -> None:
    assert slice_edges_mm(body()) == pytest.approx([-2.5, 2.5, 7.5, 12.5])
    uneven = replace(body(), positions_mm=np.array([100.0, 105.0, 125.0]))
    assert heights_mm(uneven) == [0.0, 5.0, 25.0]
    assert slice_edges_mm(uneven) == pytest.approx([-2.5, 2.5, 15.0, 27.5])
    assert slice_edges_mm(replace(body(), spacing_mm=None)) is None


def test_slices_are_shared_between_heights() -> None:
    edges = np.array([0.0, 4.0, 8.0, 12.0])
    assert share_within(edges, 3.0, 8.0) == pytest.approx([0.25, 1.0, 0.0])
    assert share_within(edges, -np.inf, 6.0) == pytest.approx([1.0, 0.5, 0.0])
