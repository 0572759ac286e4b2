"""How each task is trained: network, view, length. The plan is written beside the weights."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from ..model.card import Geometry, Network, Normalisation, Window
from ..model.tasks import TaskName
from .augment import Augmentation

GEOMETRY = Geometry(height=384, width=384)
WINDOW = Window(low_hu=-1350.0, high_hu=150.0)
NORMALISATION = Normalisation(mean=0.5, std=0.3)

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        network: what is trained.
        augmentation: how the slices are bent.
        geometry: the size in pixels that it works at.
        window, normalisation: what becomes of the Hounsfield units.
        steps: of the optimizer; the learning rate rises over the first tenth and falls to nothing at the last.
        batch: slices a step, of all processes together.
        learning_rate: its highest.
        ema_decay: share of the averaged weights that each step keeps, after the first quarter of the steps.
        minimum_lesion: share of a view that must be lesion for the view to count as infected (classification).
        lesion_free_share: how often a lesion-free slice is drawn, in 0..1.
        imagenet: whether the encoder begins with ImageNet weights.
        checkpoint_steps: steps between two checkpoints: what a killed run loses at most.
        validation_steps: steps between two looks at the slices held back.
        patience: validations without a better score after which the run ends early and publishes the average as it
            is then; None: never.
        seed: of the draw and of the first weights.
    """

    network: Network
    augmentation: Augmentation = field(default_factory=Augmentation)
    geometry: Geometry = GEOMETRY
    window: Window = WINDOW
    normalisation: Normalisation = NORMALISATION
    steps: Annotated[int, Field(ge=20)] = 1500
    batch: Count = 12
    learning_rate: Positive = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.99
    minimum_lesion: Share = 4e-4
    lesion_free_share: Share = 0.2
    imagenet: bool = False
    checkpoint_steps: Count = 100
    validation_steps: Count = 500
    patience: Count | None = None
    seed: Annotated[int, Field(ge=0)] = 0


SEGMENTER = Network(family="efficientnet_lite", parameters={"decoder": 32, "dropout": 0.1})
SEGMENTATIONS: tuple[TaskName, ...] = ("multiclass_segmentation", "binary_segmentation", "lung_segmentation")

#: The three segmentation networks taught at once, before each is taught alone.
TOGETHER = Recipe(SEGMENTER, steps=3500, learning_rate=8e-4, weight_decay=1e-2, ema_decay=0.998, imagenet=True)

RECIPES: dict[TaskName, Recipe] = {
    "classification": Recipe(
        Network(family="efficientnet_lite", parameters={"dropout": 0.3}),
        # Small crops, so that lungs without lesions are seen at every height and not only at the apex and the base.
        Augmentation(smallest_view=0.35, largest_view=1.2, elastic=0.01),
        steps=1200,
        batch=16,
        lesion_free_share=0.4,
        imagenet=True,
    ),
    "binary_segmentation": Recipe(SEGMENTER, steps=1600, imagenet=True),
    "multiclass_segmentation": Recipe(SEGMENTER, steps=2000, imagenet=True),
    "lung_segmentation": Recipe(SEGMENTER, steps=800, lesion_free_share=0.4, imagenet=True),
}
