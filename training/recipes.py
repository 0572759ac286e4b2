"""How each task is trained: network, view, length. The plan is written beside the weights."""

from dataclasses import dataclass, field

from ..model.card import Geometry, Network, Normalisation, Window
from ..model.tasks import TaskName
from .augment import Augmentation

GEOMETRY = Geometry(height=320, width=320)
WINDOW = Window(low_hu=-1350.0, high_hu=150.0)
NORMALISATION = Normalisation(mean=0.5, std=0.3)


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        network: what is trained.
        geometry: the size in pixels that it works at.
        augmentation: how the slices are bent.
        minimum_lesion: share of a view that must be lesion for the view to count as infected (classification).
        lesion_free_share: how often a lesion-free slice is drawn, in 0..1.
        imagenet: whether the encoder begins with ImageNet weights.
        patience: validations without a better score after which the run ends early; None: never.
    """

    network: Network
    augmentation: Augmentation = field(default_factory=Augmentation)
    geometry: Geometry = GEOMETRY
    steps: int = 1500
    batch: int = 12
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    ema_decay: float = 0.99
    minimum_lesion: float = 4e-4
    lesion_free_share: float = 0.2
    imagenet: bool = False
    patience: int | None = None


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
