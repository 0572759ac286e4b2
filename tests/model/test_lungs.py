"""What belongs to lungs stays, what only looks like lung goes."""

import numpy as np
import pytest
from coronanet.model.findings import Decisions
from coronanet.model.lungs import Cleaning, keep_lungs
from numpy.typing import NDArray


def empty(slices: int = 4) -> Decisions:
    masks = [np.zeros((slices, 40, 60), np.uint8) for _ in range(3)]
    return Decisions(np.zeros(slices, np.float32), *masks)


def two_lungs(slices: int = 4) -> Decisions:
    decisions = empty(slices)
    decisions.lung_mask[:, 5:30, 5:25] = 1
    decisions.lung_mask[:, 5:30, 35:55] = 1
    return decisions


def test_cloth_that_looks_like_lung_and_lesion_is_cleared_from_all_masks() -> None:
    decisions = two_lungs()
    expected = decisions.lung_mask.copy()
    decisions.lung_mask[3, 34:39, 0:6] = 1
    decisions.lesion_mask[3, 33:39, 0:6] = 1
    decisions.lesion_types[3, 34:40, 0:7] = 2
    decisions.lesion_mask[1, 10, 10] = decisions.lesion_types[1, 10, 10] = 1
    cleaning = keep_lungs(decisions)
    assert cleaning == Cleaning(components=1, lung_pixels=30, lesion_pixels=6 * 7 + 6)
    np.testing.assert_array_equal(decisions.lung_mask, expected)
    assert (decisions.lesion_mask.sum(), decisions.lesion_types.sum()) == (1, 1)


def test_cloth_goes_beside_lungs_that_touch() -> None:
    decisions = two_lungs()
    decisions.lung_mask[1, 15, 20:40] = 1
    decisions.lung_mask[3, 35:39, 0:5] = 1
    assert keep_lungs(decisions) == Cleaning(1, 20, 0)


def test_a_small_lung_beside_a_large_one_stays() -> None:
    decisions = two_lungs()
    decisions.lung_mask[:, :, 30:] = 0
    decisions.lung_mask[:, 10:14, 40:50] = 1
    assert keep_lungs(decisions) == Cleaning(0, 0, 0)


def test_an_effusion_that_leaves_no_lung_stays_and_so_do_islands_in_it() -> None:
    decisions = two_lungs()
    decisions.lung_mask[:, :, 30:] = 0
    decisions.lesion_types[:, 5:30, 35:55] = 3
    before = decisions.lesion_types.copy()
    assert keep_lungs(decisions) == Cleaning(0, 0, 0)
    np.testing.assert_array_equal(decisions.lesion_types, before)


def test_islands_that_lesions_tie_to_a_lung_stay() -> None:
    decisions = two_lungs()
    decisions.lesion_types[2, 30:36, 40] = 2
    decisions.lung_mask[2, 36, 40] = 1
    assert keep_lungs(decisions) == Cleaning(0, 0, 0)


def test_what_hangs_together_only_over_a_corner_does_not() -> None:
    decisions = two_lungs()
    decisions.lung_mask[2, 30, 55] = 1
    assert keep_lungs(decisions) == Cleaning(1, 1, 0)


def test_a_single_slice_is_cleaned_in_its_plane() -> None:
    decisions = two_lungs(1)
    decisions.lung_mask[0, 39, 59] = 1
    assert keep_lungs(decisions) == Cleaning(1, 1, 0)


@pytest.mark.parametrize("slices", [1, 4])
def test_where_nothing_is_marked_nothing_happens(slices: int) -> None:
    assert keep_lungs(empty(slices)) == Cleaning(0, 0, 0)


def test_a_branch_that_parts_and_meets_again_is_one_component() -> None:
    decisions = empty(3)
    decisions.lung_mask[0, 10:12, 10:40] = decisions.lung_mask[2, 10:12, 10:40] = 1
    decisions.lung_mask[1, 10:12, 10:15] = decisions.lung_mask[1, 10:12, 35:40] = 1
    decisions.lung_mask[:, 20:35, 5:55] = 1
    decisions.lung_mask[1, 2, 2] = 1
    assert keep_lungs(decisions) == Cleaning(1, 1, 0)


def test_random_masks_lose_exactly_the_components_that_a_flood_fill_would_take() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        lung = (rng.random((4, 12, 14)) < 0.35).astype(np.uint8)
        types = (rng.integers(1, 4, lung.shape) * (rng.random(lung.shape) < 0.1)).astype(np.uint8)
        expected = flood(lung, types)
        decisions = Decisions(np.zeros(4, np.float32), (types > 0).astype(np.uint8), types, lung)
        keep_lungs(decisions)
        np.testing.assert_array_equal((lung | (types > 0)) > 0, expected)


def flood(lung: NDArray[np.uint8], types: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """What stays, found voxel by voxel."""
    marked = (lung > 0) | (types > 0)
    seen, components = np.zeros(marked.shape, np.bool_), list[list[tuple[int, ...]]]()
    for start in map(tuple, np.argwhere(marked)):
        if seen[start]:
            continue
        todo, found = [start], list[tuple[int, ...]]()
        seen[start] = True
        while todo:
            at = todo.pop()
            found.append(at)
            for axis in range(3):
                for step in (-1, 1):
                    to = tuple(place + step * (axis == i) for i, place in enumerate(at))
                    inside = all(0 <= place < size for place, size in zip(to, marked.shape, strict=True))
                    if inside and marked[to] and not seen[to]:
                        seen[to] = True
                        todo.append(to)
        components.append(found)
    held = [sum(int(lung[at]) for at in found) for found in components]
    stays = np.zeros(marked.shape, np.bool_)
    for found, count in zip(components, held, strict=True):
        if count == 0 or count >= 0.05 * max(held):
            stays[tuple(zip(*found, strict=True))] = True
    return stays
