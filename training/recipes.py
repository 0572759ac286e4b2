"""How each task is trained: network, view, length. The plan is written beside the weights."""

from dataclasses import dataclass, field

from ..model.card import Geometry, Network, Normalisation, Window
from ..model.tasks import TaskName
from .augment import Augmentation


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        network: what is trained.
        augmentation: how the slices are bent.
        minimum_lesion: share of a view that must be lesion for the view to count as infected (classification).
        lesion_free_share: how often a lesion-free slice is drawn, in 0..1.
    """

    network: Network
    augmentation: Augmentation = field(default_factory=Augmentation)
    steps: int = 1500
    batch: int = 12
    learning_rate: float = 1e-3
    weight_decay: float = 5e-4
    ema_decay: float = 0.99
    minimum_lesion: float = 4e-4
    lesion_free_share: float = 0.2


GEOMETRY = Geometry(height=256, width=256)
WINDOW = Window(low_hu=-1350.0, high_hu=150.0)
NORMALISATION = Normalisation(mean=0.5, std=0.3)

RECIPES: dict[TaskName, Recipe] = {
    "classification": Recipe(
        Network(family="efficientnet", parameters={"variant": "b0", "width": 0.5, "dropout": 0.4}),
        # Small crops, so that lungs without lesions are seen at every height and not only at the apex and the base.
        Augmentation(smallest_view=0.35, largest_view=1.2, elastic=0.01),
        steps=1200,
        batch=16,
        lesion_free_share=0.3,
    ),
    "binary_segmentation": Recipe(Network(family="unet", parameters={"features": 8, "dropout": 0.05}), steps=1600),
    "multiclass_segmentation": Recipe(Network(family="unet", parameters={"features": 8, "dropout": 0.05}), steps=2000),
    "lung_segmentation": Recipe(
        Network(family="unet", parameters={"features": 4, "dropout": 0.0}), steps=800, lesion_free_share=0.4
    ),
}
