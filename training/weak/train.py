"""`coronanet weak`: segmentation from image labels, without a drawn mask.

Image labels -> a classifier with global average pooling -> class maps and object region mining -> masks -> a
segmentation network by the ordinary loop. The talk (Choi 2020) names it as its next step. No drawn mask teaches: those
of the groups held back score the result at the very end, and some shares of the mining were set by looking at them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn

from ...engines.bundle import publish
from ...engines.datasets import load_split
from ...engines.samples import IMAGE_LABELS_ONLY, LESION_KNOWN, Sample, Split
from ...model.card import Card, Geometry, Network
from ...model.metrics import dice
from ...model.weights import save_weights
from ..augment import Augmentation
from ..fit import fit
from ..recipes import RECIPES, Recipe
from ..scores import score
from ..train import make_card
from .lungs import Mask
from .maps import MapClassifier, MapLearner, read_maps
from .mining import Read, mine, pseudo_mask
from .slices import Slice, read_slices, to_classify, to_segment

#: Wide views alone: a small crop of an infected slice may hold no lesion, and nobody says so.
CLASSIFIER = Recipe(
    Network(family="efficientnet_lite", parameters={"dropout": 0.2}),
    Augmentation(crop_to_lungs=0.8, smallest_view=0.7, largest_view=1.25, elastic=0.01),
    Geometry(height=256, width=256),
    batch=8,
    learning_rate=1e-3,
    lesion_free_share=0.5,
    imagenet=True,
)


@dataclass(frozen=True)
class Budget:
    """How long is trained: steps of the first classifier, of each later one half, and of the segmentation network.

    The segmentation network works at ``size`` x ``size`` pixels.
    """

    classifier_steps: int = 400
    rounds: int = 3
    steps: int = 800
    size: int = 256
    seed: int = 0
    workers: int = 1


@dataclass(frozen=True)
class Stage:
    """How good the masks are on the infected slices held back: mean Dice of the slices, and pooled."""

    name: str
    dice: float
    pooled_dice: float


@dataclass(frozen=True)
class Weak:
    """What came of it; ``card`` has the network's own scores on all slices held back."""

    card: Card
    stages: tuple[Stage, ...]
    slices: int
    infected: int
    taught: int
    minutes: float


def train_weakly(
    data: Path,
    out: Path,
    runs: Path,
    budget: Budget,
    *,
    classifier: Recipe = CLASSIFIER,
    segmenter: Recipe = RECIPES["binary_segmentation"],
) -> Weak:
    """Train a lesion network from image labels and publish it as ``out/binary_segmentation/``.

    Raises:
        UsageError: the data sets are not in ``data``.
    """
    begun = time.monotonic()
    split = load_split(("binary_segmentation",), data)
    train, held_back = read_slices(split.train), read_slices(split.validation)
    mined = mine(
        train,
        held_back,
        partial(teach, runs=runs, recipe=classifier, budget=budget, split=split, held_back=held_back),
        budget.rounds,
        budget.seed,
    )
    own = _samples(train, mined.train[-1])
    sources = tuple(f"{name}{IMAGE_LABELS_ONLY}" for name in split.sources)
    geometry = Geometry(height=budget.size, width=budget.size)
    segmenter = replace(segmenter, steps=budget.steps, geometry=geometry, seed=budget.seed)
    learnt = Split(own, _samples(held_back, mined.held_back[-1]), sources, split.sha256)
    network = _segment(learnt, segmenter, runs / "segmentation", budget)
    card = make_card("binary_segmentation", segmenter.network, learnt, {}, segmenter.geometry)
    # The one place where drawn masks are looked at.
    scores = {name: round(value, 4) for name, value in score(network, card, split.validation).items()}
    card = card.model_copy(update={"validation": scores})
    with publish(out / card.task) as work:
        save_weights(network, work / "weights.safetensors")
        (work / "card.json").write_text(card.to_json(), encoding="utf-8")
    stages = _score_masks(held_back, mined.held_back, split.validation)
    infected = sum(piece.infected for piece in train)
    return Weak(card, stages, len(train), infected, len(own), round((time.monotonic() - begun) / 60, 1))


def teach(
    number: int,
    pieces: Sequence[Slice],
    regions: Sequence[Mask],
    *,
    runs: Path,
    recipe: Recipe,
    budget: Budget,
    split: Split,
    held_back: Sequence[Slice],
) -> Read:
    """One round's classifier; the later ones begin with the one before and take half its steps.

    A data set in which all slices are infected would teach what that set looks like, so it teaches nothing here.
    """
    telling = {piece.source for piece in pieces if not piece.infected}
    own = tuple(
        to_classify(piece, region) for piece, region in zip(pieces, regions, strict=True) if piece.source in telling
    )
    checked = tuple(to_classify(piece, np.zeros(piece.image.shape, bool)) for piece in held_back)
    labelled = Split(own, checked, split.sources, split.sha256)
    steps = budget.classifier_steps if number == 0 else max(1, budget.classifier_steps // 2)
    card = make_card("classification", recipe.network, labelled, {}, recipe.geometry)
    folder, before = (runs / f"round-{each}" for each in (number, number - 1))
    folder.mkdir(parents=True, exist_ok=True)
    fitted = fit(
        {"classification": card},
        replace(recipe, steps=steps, seed=budget.seed + number),
        labelled,
        folder,
        workers=budget.workers,
        start=before / "weights.safetensors" if number else None,
        resume=None,
        make_learner=MapLearner,
    )
    network = fitted.networks["classification"]
    assert isinstance(network, MapClassifier)
    save_weights(network, folder / "weights.safetensors")
    return partial(read_maps, network, card)


def _samples(pieces: Sequence[Slice], regions: Sequence[Mask]) -> tuple[Sample, ...]:
    """Slices with their mined masks; an infected slice in which nothing was found would teach that it is healthy."""
    masked = [(piece, pseudo_mask(piece, region)) for piece, region in zip(pieces, regions, strict=True)]
    return tuple(to_segment(piece, mask) for piece, mask in masked if mask.any() or not piece.infected)


def _segment(split: Split, recipe: Recipe, folder: Path, budget: Budget) -> nn.Module:
    folder.mkdir(parents=True, exist_ok=True)
    fitted = fit(
        {"binary_segmentation": make_card("binary_segmentation", recipe.network, split, {}, recipe.geometry)},
        recipe,
        split,
        folder,
        workers=budget.workers,
        start=None,
        resume=None,
    )
    return fitted.networks["binary_segmentation"]


def _score_masks(
    pieces: Sequence[Slice], rounds: Sequence[Sequence[Mask]], samples: Sequence[Sample]
) -> tuple[Stage, ...]:
    """Dice of every stage's masks; the first needs no classifier and says what intensity alone can do."""
    truths = [sample.labels > 0 for sample in samples if sample.supervision in LESION_KNOWN]
    everywhere = [piece.lungs.field for piece in pieces]
    named = [("dense lung tissue, no classifier", everywhere)]
    named += [(f"mined, round {number}", list(regions)) for number, regions in enumerate(rounds, start=1)]
    return tuple(
        _stage(
            name,
            [
                (pseudo_mask(piece, region), truth)
                for piece, region, truth in zip(pieces, regions, truths, strict=True)
                if piece.infected
            ],
        )
        for name, regions in named
    )


def _stage(name: str, pairs: Sequence[tuple[Mask, Mask]]) -> Stage:
    each = float(np.mean([dice(mask, truth) for mask, truth in pairs]))
    masks, truths = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    return Stage(name, round(each, 4), round(dice(masks, truths), 4))
