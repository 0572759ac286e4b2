"""A classifier whose last step is global average pooling, and the class maps that it leaves.

Zhou et al. 2016, arXiv:1512.04150: where the logit is the mean of a map, the map says where the class was seen. The
1 x 1 convolution comes before the mean here, which is the same sum in another order. The features are those at 1/16 of
the resolution, and the mean is over the dense tissue of the lungs: lesion or vessel is the question, and over the whole
picture a small lesion would hardly move it.
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

from ...console import err
from ...engines.samples import Sample
from ...model.card import Card, Geometry
from ...model.networks.efficientnet_lite import TAPS, Encoder
from ...model.pixels import Preprocess
from ...model.tasks import TaskName
from ..learner import Batch, Learner
from ..recipes import Recipe
from .lungs import Mask
from .slices import DENSE, Slice

#: The stage of the encoder that the maps are read from, and the filters between it and the map.
STAGE, WIDTH = 4, 128
#: How much lung without dense tissue counts in the mean: little dense tissue speaks less loudly than much.
REST = 0.1
#: A slice is read at these multiples of the card's size, each also mirrored, and the maps are averaged. The first one
#: says how probable an infection is.
SCALES = (1.0, 1.5)
#: What is seen around the lungs, as a share of their size.
MARGIN = 0.05


class MapClassifier(nn.Module):
    """``pixels`` ``[N, 1, h, w]`` and ``tissue`` ``[N, h, w]`` (see ``Slice``) to ``logits`` ``[N]``.

    The logit is the mean of ``maps`` ``[N, 1, h / 16, w / 16]`` over dense tissue, and a bias.
    """

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

        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: Tensor, tissue: Tensor) -> Tensor:
        maps = self.maps(pixels).float()
        height, width = maps.shape[-2:]
        dense, lungs = (
            F.adaptive_avg_pool2d(chosen.float()[:, None], (height, width)) for chosen in (tissue == DENSE, tissue > 0)
        )
        weight = dense.sum(dim=(1, 2, 3)) + REST * lungs.sum(dim=(1, 2, 3))
        return (maps * dense).sum(dim=(1, 2, 3)) / weight.clamp_min(1e-3) + self.bias

    def maps(self, pixels: Tensor) -> Tensor:
        """What every place adds to the logit."""
        x = self.encoder.stem(pixels)
        for stage in self.encoder.stages[: STAGE + 1]:
            x = stage(x)
        return self.head(x)


class MapLearner(Learner):
    """Teaches a ``MapClassifier`` with the ordinary loop."""

    def __init__(self, cards: Mapping[TaskName, Card], recipe: Recipe, validation: tuple[Sample, ...]) -> None:
        super().__init__(cards, recipe, validation)
        self._checked = validation

    def build(self) -> nn.ModuleDict:
        dropout = float(self.recipe.network.parameters.get("dropout", 0.0))
        return nn.ModuleDict({task: MapClassifier(dropout) for task in self.cards})

    def training_step(self, batch: Batch, _: int) -> Tensor:
        labels, tissue = batch[1], batch[2]
        pixels = self.preprocess(batch[0]).contiguous(memory_format=torch.channels_last)
        infected = labels.float().mean(dim=(1, 2)) >= self.recipe.minimum_lesion
        logits = torch.cat([network(pixels, tissue) for network in self.networks.values()])
        loss = F.binary_cross_entropy_with_logits(logits, infected.float())
        self.log("loss", loss, prog_bar=True)
        return loss

    def validate(self) -> dict[TaskName, dict[str, float]]:
        """The share of image labels of slices held back that are said right."""
        infected = np.array([bool(sample.labels.any()) for sample in self._checked])
        scores: dict[TaskName, dict[str, float]] = {}
        for task in self.cards:
            network = self.network(task)
            was_training = network.training
            network.eval()
            said = np.array([_logit(network, self.preprocess, sample) >= 0 for sample in self._checked])
            network.train(was_training)
            scores[task] = {"accuracy": float(np.mean(said == infected))}
        return scores


def _logit(network: nn.Module, preprocess: Preprocess, sample: Sample) -> float:
    """What a classifier says of a whole slice."""
    device = next(network.parameters()).device
    tissue = np.zeros(sample.image.shape, np.uint8) if sample.lung is None else sample.lung
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        pixels = preprocess(torch.from_numpy(sample.image[None])).to(device, memory_format=torch.channels_last)
        return float(network(pixels, _resized(tissue, preprocess).to(device)))


def _resized(tissue: NDArray[np.uint8], preprocess: Preprocess) -> Tensor:
    """uint8 ``[1, h, w]`` at the size that the network works at."""
    return torch.from_numpy(cv2.resize(tissue, preprocess.size[::-1], interpolation=cv2.INTER_NEAREST))[None]


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
    pairs = list(zip(pieces, regions, strict=True))
    return [
        _read(classifier, steps, piece.without(region))
        for piece, region in track(pairs, "reading class maps", console=err)
    ]


def _read(classifier: MapClassifier, steps: Sequence[Preprocess], piece: Slice) -> Reading:
    view = _view(piece)
    image = torch.from_numpy(np.ascontiguousarray(piece.image[view]))[None]
    finest = (steps[-1].size[0] // 16, steps[-1].size[1] // 16)
    maps: list[Tensor] = []
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for preprocess in steps:
            pixels = preprocess(image)
            both = classifier.maps(torch.cat([pixels, pixels.flip(3)])).float()
            straight, mirrored = F.interpolate(both, size=finest, mode="bilinear", align_corners=False)
            maps += [straight[0], mirrored[0].flip(1)]
        tissue = _resized(np.ascontiguousarray(piece.tissue[view]), steps[0])
        logit = classifier(steps[0](image), tissue)
    mean = torch.stack(maps).mean(0)
    scores = np.full(piece.image.shape, -np.inf, np.float32)
    height, width = image.shape[1:]
    scores[view] = cv2.resize(mean.numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    return Reading(float(logit.sigmoid()), scores)


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
