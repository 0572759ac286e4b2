"""The classifier of the UCSD COVID-CT benchmark: trained on its train split, chosen on its val split, never shipped.

It stands apart from the shipped classifier, because the images that are not COVID-19 may show another disease.
"""

import hashlib
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ...engines.bundle import publish
from ...model.card import Card, Geometry, Network, TrainingData
from ...model.errors import UsageError
from ...model.metrics import auc, dice
from ...model.networks import build
from ...model.pixels import DecideProbability, Preprocess
from ...model.tasks import TASKS
from ...model.weights import save_weights, take_weights
from ..averaging import Averaging
from ..fit import LIGHTNING_NOISE
from ..imagenet import take_imagenet
from ..learner import prepare
from ..progress import Bar
from ..recipes import NORMALISATION, WINDOW
from ..views import Positions
from .images import SIDE, Part, ucsd_images

NETWORK = Network(family="efficientnet_lite", parameters={"dropout": 0.3})
#: Fine texture tells most: a linear probe of ImageNet features rises from .75 at 96 pixels to .90 at 320 on val.
SIZE = 288
#: Steps between two looks at the val split.
STEPS_PER_EPOCH = 40
LICENCE = (
    "Research use only: trained on figures from papers (UCSD-AI4H COVID-CT, arXiv:2003.13865), whose rights remain."
)
INTENDED_USE = "The UCSD COVID-CT benchmark alone; it does not ship. Not a medical device; not for diagnosis."


@dataclass(frozen=True)
class Figures:
    """The images of a split: int16 HU ``[N, H, W]``, and which are COVID-19, bool ``[N]``."""

    images: NDArray[np.int16]
    covid: NDArray[np.bool_]
    sha256: str


def train_ucsd(
    data: Path,
    out: Path,
    runs: Path,
    *,
    steps: int = 1500,
    batch: int = 16,
    seed: int = 0,
    workers: int = 0,
    start: Path | None = None,
    size: int = SIZE,
    network: Network = NETWORK,
) -> Card:
    """Train on ``train`` and publish ``out/ucsd`` with the averaged weights that had the highest AUC on ``val``.

    ImageNet weights are the beginning for the family ``efficientnet_lite``, random ones for any other.

    Args:
        size: the side in pixels that the network works at, a multiple of 32.
        start: a file of weights to begin with instead, as far as they fit.

    Raises:
        UsageError: the data set is not in ``data``, ``size`` is no multiple of 32, or ``start`` does not fit.
    """
    if size % 32 or not 32 <= size <= SIDE:
        raise UsageError(f"--size must be a multiple of 32 from 32 to {SIDE}, got {size}")
    lightning.seed_everything(seed, workers=True, verbose=False)
    train, validation = read_figures(data, "train"), read_figures(data, "val")
    learner = UcsdLearner(make_ucsd_card(network, size, train, {}), validation, steps)
    if start is not None:
        take_weights(learner.network, start)
    elif network.family == "efficientnet_lite":
        take_imagenet(learner.network)
    best = _fit(learner, train, runs / "ucsd", steps=steps, batch=batch, seed=seed, workers=workers)
    learner.load_state_dict(torch.load(best, weights_only=True)["state_dict"])
    card = make_ucsd_card(network, size, train, learner.scores())
    with publish(out / "ucsd") as work:
        save_weights(learner.network, work / "weights.safetensors")
        (work / "card.json").write_text(card.to_json(), encoding="utf-8")
    return card


def read_figures(data: Path, split: Part) -> Figures:
    """A split in memory; the test split is refused."""
    read = list(ucsd_images(data, split))
    images = np.stack([image for _, image, _ in read])
    covid = np.array([covid for _, _, covid in read])
    return Figures(images, covid, hashlib.sha256(images.tobytes() + covid.tobytes()).hexdigest())


def make_ucsd_card(network: Network, size: int, train: Figures, validation: dict[str, float]) -> Card:
    return Card(
        task="classification",
        network=network,
        labels=TASKS["classification"].labels,
        geometry=Geometry(height=size, width=size),
        window=WINDOW,
        normalisation=NORMALISATION,
        threshold=0.5,
        tolerance=1e-3,
        training_data=TrainingData(sources=("UCSD COVID-CT train",), slices=len(train.covid), sha256=train.sha256),
        validation={name: round(value, 4) for name, value in validation.items()},
        licence=LICENCE,
        intended_use=INTENDED_USE,
    )


class UcsdViews(Dataset[tuple[NDArray[np.int16], np.float32]]):
    """Random views by position, as many COVID-19 as not: the same position gives the same view in any process."""

    def __init__(self, figures: Figures, size: tuple[int, int], seed: int) -> None:
        self._figures, self._size, self._seed = figures, size, seed
        self._of_class = [np.flatnonzero(~figures.covid), np.flatnonzero(figures.covid)]

    def __getitem__(self, index: int) -> tuple[NDArray[np.int16], np.float32]:
        rng = np.random.default_rng((self._seed, index))
        number = rng.choice(self._of_class[index % 2])
        return random_view(self._figures.images[number], self._size, rng), np.float32(index % 2)


def random_view(image: NDArray[np.int16], size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int16]:
    """A view int16 HU ``size``: cropped, stretched, tilted, mirrored and with another contrast, but never upside down.

    Figures are upright, and that lesions lie at the back of the lungs is something that a network may know here.
    """
    side = np.array(image.shape[::-1], np.float64)
    stretch = math.exp(rng.uniform(-0.15, 0.15))
    view = side * rng.uniform(0.65, 1.1) * np.array([stretch, 1 / stretch])
    angle = math.radians(rng.uniform(-15, 15))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    mirror = np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0])
    linear = turn @ mirror @ np.diag(view / np.array(size[::-1]))
    centre = side / 2 + rng.uniform(-1, 1, 2) * (np.abs(side - view) / 2 + 0.03 * side)
    offset = centre - linear @ np.array(size[::-1]) / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    matrix = np.hstack([linear, offset[:, None]])
    seen: NDArray[Any] = cv2.warpAffine(
        image.astype(np.float32), matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )
    return _another_hand(seen, rng)


def _another_hand(image: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int16]:
    """Another window, sharpness and noise, so that no journal's or camera's look gives the class away."""
    image = (image + 600) * math.exp(rng.uniform(-0.35, 0.35)) - 600 + rng.uniform(-150, 150)
    image = image.clip(WINDOW.low_hu, WINDOW.high_hu)
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    if rng.random() < 0.5:
        image = image + rng.normal(0, rng.uniform(0, 50), image.shape)
    return np.rint(image).astype(np.int16)


class UcsdLearner(lightning.LightningModule):
    """One logit: is the figure COVID-19."""

    def __init__(self, card: Card, validation: Figures, steps: int) -> None:
        super().__init__()
        self._validation, self._steps = validation, steps
        self.preprocess, self.decide = Preprocess(card), DecideProbability()
        self.network = build(card)
        prepare(self.network)

    def forward(self, image: Tensor) -> Tensor:
        """``image`` int16 HU ``[N, H, W]`` to logits ``[N]``."""
        return self.network(self.preprocess(image).contiguous(memory_format=torch.channels_last))[:, 0]

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        image, covid = batch
        # Softened truth: 425 figures are soon known by heart.
        loss = F.binary_cross_entropy_with_logits(self(image).float(), covid * 0.9 + 0.05)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-4, weight_decay=2e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-4, total_steps=self._steps, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        """Scores of the averaged weights; the one batch is a placeholder, the figures are the learner's own."""
        del batch
        self.log_dict(self.scores(), prog_bar=True, batch_size=1)

    def scores(self) -> dict[str, float]:
        """AUC, and F1 and accuracy at .5, on whole val images in single precision."""
        was_training = self.training
        self.eval()
        with torch.inference_mode(), torch.autocast("cpu", enabled=False):
            parts = torch.from_numpy(self._validation.images).split(16)
            probability = torch.cat([self.decide(self(part)) for part in parts]).numpy()
        self.train(was_training)
        covid, called = self._validation.covid, probability >= 0.5
        # Dice of two lists of yes and no is F1.
        return {
            "auc": auc(probability, covid),
            "f1": dice(called, covid),
            "accuracy": float(np.mean(called == covid)),
        }


def _fit(
    learner: UcsdLearner, train: Figures, folder: Path, *, steps: int, batch: int, seed: int, workers: int
) -> Path:
    """Train, and return the checkpoint with the highest AUC."""
    loader = DataLoader(
        UcsdViews(train, learner.preprocess.size, seed),
        batch_size=batch,
        sampler=Positions(steps, batch),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    best = ModelCheckpoint(folder, filename="best", monitor="auc", mode="max", enable_version_counter=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=steps,
        val_check_interval=min(STEPS_PER_EPOCH, steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[Averaging(decay=0.99, begin=steps // 10), best, Bar()],
        logger=CSVLogger(folder, name="", version=""),
        log_every_n_steps=min(10, STEPS_PER_EPOCH),
        enable_model_summary=False,
        default_root_dir=folder,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        for message in LIGHTNING_NOISE:
            warnings.filterwarnings("ignore", message)
        trainer.fit(learner, loader, DataLoader(TensorDataset(torch.zeros(1))))
    return Path(best.best_model_path)
