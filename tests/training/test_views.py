"""Which slice is shown is decided by the seed and the position, and no data set drowns another."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from coronanet.engines.samples import SUPERVISIONS, Sample
from coronanet.model.card import Geometry, Network
from coronanet.training.recipes import Recipe
from coronanet.training.views import Item, Views

SIZE = Geometry(height=32, width=32)
RECIPE = Recipe(Network(family="unet", parameters={}), lesion_free_share=0.25)


def made(group: str, *, lesion: bool, density: int = -700) -> Sample:
    labels = np.zeros((32, 32), np.uint8)
    labels[8:24, 8:24] = lesion
    return Sample(np.full((32, 32), density, np.int16), labels, "lesion", group)


@pytest.fixture
def samples() -> tuple[Sample, ...]:
    """A small set and a large one, told apart by nothing but how often their slices come."""
    small = [made("small-1", lesion=True)] * 2 + [made("small-2", lesion=False)]
    return (*small, *[made("large-1", lesion=True)] * 30, *[made("large-2", lesion=False)] * 10)


def same(one: Item, other: Item) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_position_has_one_view_and_every_other_another(samples: tuple[Sample, ...]) -> None:
    views, again = Views(samples, SIZE, RECIPE), Views(samples, SIZE, RECIPE)
    # In another order, as another process would.
    late = {index: again[index] for index in (9, 2, 5)}
    assert all(same(views[index], view) for index, view in late.items())
    assert not same(views[2], views[5])
    assert not same(views[2], Views(samples, SIZE, replace(RECIPE, seed=4))[2])


def test_sets_count_alike_and_lesion_free_slices_come_as_often_as_the_recipe_says(
    samples: tuple[Sample, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: Counter[str] = Counter()

    def watched(sample: Sample, *_: object) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.uint8]], ...]:
        seen[sample.group] += 1
        return (sample.labels,) * 3

    monkeypatch.setattr("coronanet.training.views.augment", watched)
    views, count = Views(samples, SIZE, RECIPE), 4000
    for index in range(count):
        views[index]
    assert (seen["small-2"] + seen["large-2"]) / count == pytest.approx(0.25, abs=0.03)
    assert (seen["small-1"] + seen["small-2"]) / count > 0.3


def test_a_set_without_lesion_free_slices_shows_what_it_has() -> None:
    for lesion in (True, False):
        views = Views((made("one-1", lesion=lesion),), SIZE, RECIPE)
        assert views[0].supervision == SUPERVISIONS.index("lesion")
