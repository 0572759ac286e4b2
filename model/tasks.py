"""The four things a Corona-Net says about a slice, and the names they carry everywhere."""

from dataclasses import dataclass
from typing import Literal, get_args

TaskName = Literal["classification", "binary_segmentation", "multiclass_segmentation", "lung_segmentation"]
#: The served models: the ensemble, and the one that asks it for lesions only in slices that are called infected.
ENSEMBLE, TRIAGE = "coronanet", "coronanet_triage"
LESION_TYPES = ("background", "ground glass", "consolidation", "pleural effusion")


@dataclass(frozen=True)
class Task:
    """What one network decides.

    Attributes:
        name: the task, also the name of its bundle and of its Triton model.
        channels: number of logits a pixel (segmentation) or a slice (classification).
        decision: the output of the ``decide`` graph, ``"probability"`` or ``"mask"``.
        output: the name of that decision in the ensemble ``coronanet``.
        labels: what the values of the decision mean, by value.
    """

    name: TaskName
    channels: int
    decision: Literal["probability", "mask"]
    output: str
    labels: tuple[str, ...]

    @property
    def is_segmentation(self) -> bool:
        return self.decision == "mask"


TASKS: dict[TaskName, Task] = {
    task.name: task
    for task in (
        Task("classification", 1, "probability", "infected_probability", ("not infected", "infected")),
        Task("binary_segmentation", 1, "mask", "lesion_mask", ("background", "lesion")),
        Task("multiclass_segmentation", len(LESION_TYPES), "mask", "lesion_types", LESION_TYPES),
        Task("lung_segmentation", 1, "mask", "lung_mask", ("background", "lung")),
    )
}
TASK_NAMES: tuple[TaskName, ...] = get_args(TaskName)
