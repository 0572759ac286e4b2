"""A classifier whose last step is global average pooling, and the class maps that it leaves.

Zhou et al. 2016, arXiv:1512.04150: where the logit is the mean of a map, the map says where the class was seen. The
1 x 1 convolution comes before the mean here, which is the same sum in another order. The features are those at 1/8 of
the resolution, each of which sees 67 pixels: deeper ones see more than the view and light up beside what they found,
while local evidence is enough to tell a texture (Brendel and Bethge 2019, arXiv:1904.00760).
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn

from ..console import err
from ..model.card import Card, Geometry
from ..model.networks.efficientnet_lite import TAPS, Encoder
from ..model.pixels import Preprocess
from ..model.tasks import TaskName
from .learner import Learner
from .recipes import Recipe
from .samples import Sample
from .weak_lungs import Mask
from .weak_slices import Slice

#: The stage of the encoder that the maps are read from, and the filters between it and the map.
STAGE, WIDTH = 2, 128
#: A slice is read at these multiples of the card's size, each also mirrored, and the maps are averaged. The first one
#: says how probable an infection is.
SCALES = (1.0, 1.5)
#: What is seen around the lungs, as a share of their size.
MARGIN = 0.05


class MapClassifier(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` to ``logits`` ``[N, 1]``, the mean of ``maps`` ``[N, 1, h / 8, w / 8]``."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Sequential(
            nn.Conv2d(TAPS[STAGE], WIDTH, 1, bias=False),
            nn.BatchNorm2d(WIDTH),
            nn.ReLU(inplace=True),
            nn.Dropout2d(dropout),
            nn.Conv2d(WIDTH, 1, 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.maps(pixels).mean(dim=(2, 3))

    def maps(self, pixels: Tensor) -> Tensor:
        """What every place adds to the logit."""
        x = self.encoder.stem(pixels)
        for stage in self.encoder.stages[: STAGE + 1]:
            x = stage(x)
        return self.head(x)


class MapLearner(Learner):
    """Teaches a ``MapClassifier`` with the ordinary loop."""

    def __init__(
        self, cards: Mapping[TaskName, Card], recipe: Recipe, validation: tuple[Sample, ...], seed: int
    ) -> None:
        super().__init__(cards, recipe, validation, seed)
        dropout = float(recipe.network.parameters.get("dropout", 0.0))
        self.networks = nn.ModuleDict({task: MapClassifier(dropout) for task in cards})


class Reading(NamedTuple):
    """What a classifier says of a slice: ``probability`` of infection, and ``scores`` float32 ``[H, W]``, in logits."""

    probability: float
    scores: NDArray[np.float32]


def read_maps(classifier: MapClassifier, card: Card, pieces: Sequence[Slice], regions: Sequence[Mask]) -> list[Reading]:
    """What the classifier says of each slice with its region erased; outside the view of the lungs the scores are -inf.

    The view is that of the lungs, so that a small lung fills the network's field as a large one does.
    """
    steps = [Preprocess(_scaled(card, scale)) for scale in SCALES]
    classifier.eval()
    readings: list[Reading] = []
    pairs = list(zip(pieces, regions, strict=True))
    for piece, region in track(pairs, "reading class maps", console=err):
        rows, columns = _view(piece)
        image = torch.from_numpy(np.ascontiguousarray(piece.lungs_alone(region)[rows, columns]))[None]
        readings.append(_read(classifier, steps, image, piece, (rows, columns)))
    return readings


def _read(
    classifier: MapClassifier, steps: Sequence[Preprocess], image: Tensor, piece: Slice, view: tuple[slice, slice]
) -> Reading:
    finest = (steps[-1].size[0] // 8, steps[-1].size[1] // 8)
    maps: list[Tensor] = []
    with torch.inference_mode():
        for preprocess in steps:
            pixels = preprocess(image)
            with torch.autocast("cpu", torch.bfloat16):
                both = classifier.maps(torch.cat([pixels, pixels.flip(3)])).float()
            straight, mirrored = F.interpolate(both, size=finest, mode="bilinear", align_corners=False)
            maps += [straight[0], mirrored[0].flip(1)]
    mean = torch.stack(maps).mean(0)
    scores = np.full(piece.image.shape, -np.inf, np.float32)
    height, width = image.shape[1:]
    scores[view] = cv2.resize(mean.numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return Reading(float(torch.stack(maps[:2]).mean().sigmoid()), scores)


def _scaled(card: Card, scale: float) -> Card:
    sides = (32 * max(1, round(side * scale / 32)) for side in (card.geometry.height, card.geometry.width))
    height, width = sides
    return card.model_copy(update={"geometry": Geometry(height=height, width=width)})


def _view(piece: Slice) -> tuple[slice, slice]:
    """Rows and columns of the lungs with a margin."""
    top, left, bottom, right = piece.lungs.box
    margin = round(MARGIN * max(bottom - top, right - left))
    height, width = piece.image.shape
    return (
        slice(max(0, top - margin), min(height, bottom + margin)),
        slice(max(0, left - margin), min(width, right + margin)),
    )
