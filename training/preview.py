"""The contact sheet of `coronanet train --preview`: what training sees, as a picture for people."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..engines.datasets import load_split
from ..engines.samples import UNKNOWN, Sample, Supervision
from ..model.card import Card
from ..model.errors import UsageError
from ..model.pixels import Preprocess
from ..model.tasks import TaskName
from .augment import View, augment
from .files import write_whole
from .recipes import RECIPES, TOGETHER, Recipe
from .train import card_for

#: The first column is the untouched slice, the others are random views of it.
COLUMNS = 8
#: Small views are enlarged to this many pixels, so that their captions can be read.
SMALLEST_TILE = 240
MARGIN = 6
CAPTION = 22

#: Okabe and Ito's palette, which stays apart for every kind of colour vision (jfly.uni-koeln.de/color); RGB.
LUNG_COLOUR = (0, 158, 115)
COLOURS: dict[Supervision, tuple[tuple[str, tuple[int, int, int]], ...]] = {
    "types": (("ground glass", (86, 180, 233)), ("consolidation", (213, 94, 0))),
    "lesion": (("lesion, kind unknown", (240, 228, 66)),),
    "effusion": (("pleural effusion", (204, 121, 167)),),
}

Picture = NDArray[np.uint8]


def preview(
    tasks: Sequence[TaskName],
    data: Path,
    path: Path,
    *,
    recipe: Recipe | None = None,
    rows: int = 8,
) -> Path:
    """Write a grid of training views as a PNG: one slice a row, untouched first, then seven random views of it.

    The views are those that the tasks' networks see: bent by the recipe, then through the card's own ``Preprocess``.
    Every kind of slice (set, supervision, with or without lesion) has its row before any has a second one. Captions
    name the set and the supervision, never a patient or a volume.

    Returns:
        ``path``.

    Raises:
        UsageError: the tasks' data sets are not in ``data``, or ``path`` does not end in ``.png``.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"the preview is a PNG: expected a file name that ends in .png, got {path.name}")
    recipe = recipe or (RECIPES[tasks[0]] if len(tasks) == 1 else TOGETHER)
    split = load_split(tasks, data)
    card = card_for(tasks[0], recipe, split, {})
    rng = np.random.default_rng(recipe.seed)
    chosen = choose_rows(split.train, rows, rng)
    grid = np.vstack([_row(sample, card, recipe, rng, tasks) for sample in chosen])
    legend = _legend({sample.supervision for sample in chosen}, any(s.lung is not None for s in chosen), grid.shape[1])
    encoded: Any = cv2.imencode(".png", cv2.cvtColor(np.vstack([legend, grid]), cv2.COLOR_RGB2BGR))[1]
    write_whole(path, encoded.tobytes())
    return path


def choose_rows(samples: Sequence[Sample], rows: int, rng: np.random.Generator) -> list[Sample]:
    """One random slice of each kind in turn, until there are ``rows``."""
    kinds: dict[tuple[str, str, bool], list[Sample]] = {}
    for sample in samples:
        kinds.setdefault((_source(sample), sample.supervision, bool(sample.labels.any())), []).append(sample)
    order = sorted(kinds, key=lambda kind: (not kind[2], kind[0], kind[1] != "types"))
    chosen: list[Sample] = []
    for number in range(rows):
        own = kinds[order[number % len(order)]]
        chosen.append(own[int(rng.integers(len(own)))])
    return chosen


def _source(sample: Sample) -> str:
    """The data set alone: what follows in the group is the patient or the volume."""
    return sample.group.partition("-")[0]


def _row(sample: Sample, card: Card, recipe: Recipe, rng: np.random.Generator, tasks: Collection[TaskName]) -> Picture:
    size = (card.geometry.height, card.geometry.width)
    lung = np.full(size, UNKNOWN, np.uint8) if sample.lung is None else _nearest(sample.lung, size)
    # The slice as it is: squeezed to the network's size by Preprocess alone, as in use.
    views = [View(sample.image, _nearest(sample.labels, size), lung)]
    views += [augment(sample, size, recipe.augmentation, rng) for _ in range(COLUMNS - 1)]
    kind = sample.supervision if sample.labels.any() else f"{sample.supervision}, none here"
    captions = [f"{_source(sample)}: {kind}"] + [_verdict(view, sample, recipe, tasks) for view in views[1:]]
    preprocess = Preprocess(card)
    return np.hstack(
        [
            tile(_grey(view.image, preprocess), view, sample.supervision, caption)
            for view, caption in zip(views, captions, strict=True)
        ]
    )


def _verdict(view: View, sample: Sample, recipe: Recipe, tasks: Collection[TaskName]) -> str:
    """What a view's caption says: its set and supervision, and for a classifier what it is told."""
    caption = f"{_source(sample)}: {sample.supervision}"
    if "classification" in tasks and sample.supervision != "effusion":
        infected = float((view.labels > 0).mean()) >= recipe.minimum_lesion
        caption += ", infected" if infected else ", not infected"
    return caption


def _nearest(labels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST).astype(np.uint8)


def _grey(image: NDArray[np.int16], preprocess: Preprocess) -> Picture:
    """What the network sees, in grey levels: the card's window from black to white."""
    with torch.inference_mode():
        pixels = preprocess(torch.from_numpy(image[None]))[0, 0].numpy()
    return np.rint((pixels * preprocess.std + preprocess.mean).clip(0, 1) * 255).astype(np.uint8)


def tile(grey: Picture, view: View, supervision: Supervision, caption: str) -> Picture:
    """One view with its contours over it and its caption under it, RGB ``[h, w, 3]``."""
    factor = max(1, -(-SMALLEST_TILE // grey.shape[1]))
    picture = cv2.cvtColor(_enlarged(grey, factor), cv2.COLOR_GRAY2RGB)
    if not (view.lung == UNKNOWN).all():
        _outline(picture, _enlarged(view.lung, factor) == 1, LUNG_COLOUR)
    for value, (_, colour) in enumerate(COLOURS[supervision], start=1):
        _outline(picture, _enlarged(view.labels, factor) == value, colour)
    framed = cv2.copyMakeBorder(picture, MARGIN, CAPTION, MARGIN, MARGIN, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    _text(framed, caption, (MARGIN, framed.shape[0] - 7), (255, 255, 255))
    return framed.astype(np.uint8)


def _enlarged(image: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _outline(picture: NDArray[Any], mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, contours, -1, colour, 1)


def _text(picture: NDArray[Any], text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, 1, cv2.LINE_AA)


def _legend(supervisions: Collection[Supervision], lungs: bool, width: int) -> Picture:
    """The line over the grid that says which colour is what; only what is in the picture."""
    entries = [entry for name, own in COLOURS.items() if name in supervisions for entry in own]
    if lungs:
        entries.append(("lung", LUNG_COLOUR))
    legend = np.zeros((CAPTION + 8, width, 3), np.uint8)
    _text(legend, "left: the slice untouched; then random views of it", (MARGIN, 20), (255, 255, 255))
    x = 400
    for name, colour in entries:
        legend[10:22, x : x + 12] = colour
        _text(legend, name, (x + 18, 20), (255, 255, 255))
        x += 180
    return legend
