"""What the four decisions on a study add up to: figures a slice and for the whole, and how far the networks agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .tasks import LESION_TYPES, TASKS

#: Two radiologists agree with each other at Dice .70 (Bartoli et al. 2022); below that a reader should look twice.
AGREEMENT_DICE = 0.70
#: The lesion types by the names that figures carry, background left out; the n-th has label n + 1.
TYPE_NAMES = tuple(label.replace(" ", "_") for label in LESION_TYPES[1:])


@dataclass(frozen=True)
class Decisions:
    """What the ensemble says about a study of Z slices.

    Attributes:
        infected_probability: float32 ``[Z]`` in 0..1.
        lesion_mask: uint8 ``[Z, H, W]``, 0 / 1.
        lesion_types: uint8 ``[Z, H, W]``, labels of ``tasks.LESION_TYPES``.
        lung_mask: uint8 ``[Z, H, W]``, 0 / 1.
    """

    infected_probability: NDArray[np.float32]
    lesion_mask: NDArray[np.uint8]
    lesion_types: NDArray[np.uint8]
    lung_mask: NDArray[np.uint8]

    def __post_init__(self) -> None:
        shapes = {self.lesion_mask.shape, self.lesion_types.shape, self.lung_mask.shape}
        if len(shapes) != 1 or self.lung_mask.ndim != 3 or self.infected_probability.shape != self.lung_mask.shape[:1]:
            raise UsageError(
                "expected a probability a slice and three masks of one shape [Z, H, W], got "
                f"{self.infected_probability.shape} and {sorted(shapes)}"
            )

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, NDArray[Any]]) -> "Decisions":
        """From the ensemble's tensors; ``infected_probability`` comes as ``[Z, 1]``.

        Raises:
            UsageError: an output is missing or the shapes do not fit each other.
        """
        names = [task.output for task in TASKS.values()]
        if missing := [name for name in names if name not in outputs]:
            raise UsageError(f"expected the outputs {names}, but {missing} are missing: all four networks are needed")
        return cls(
            np.asarray(outputs["infected_probability"], np.float32).reshape(-1),
            outputs["lesion_mask"],
            outputs["lesion_types"],
            outputs["lung_mask"],
        )


@dataclass(frozen=True)
class SliceFindings:
    """One slice; ``slice`` counts from 1 at the feet.

    ``lesion_pixels`` are those of the binary network, ``pixels_by_type`` those of the 3-class network.
    ``percent_of_lung_involved`` is the share of lung pixels that are lesion, None where there is no lung.
    ``position_mm`` is the height above the first slice, None where the study has no spacing.
    """

    slice: int
    infected_probability: float
    lung_pixels: int
    lesion_pixels: int
    pixels_by_type: dict[str, int]
    percent_of_lung_involved: float | None
    position_mm: float | None = None


@dataclass(frozen=True)
class Agreement:
    """How far the two lesion networks agree on what is lesion, the 3-class network's types taken together.

    Attributes:
        dice: 2 |A and B| / (|A| + |B|), None where neither marks anything.
        disagreeing_share: the share of pixels marked by either that only one of them marks, None likewise.
        flagged: Dice is below ``AGREEMENT_DICE``: read the masks with care.
    """

    dice: float | None
    disagreeing_share: float | None
    flagged: bool


@dataclass(frozen=True)
class StudyFindings:
    """What the networks said about the whole study; ``severity.measure`` says what it amounts to.

    The probabilities are over slices that show lung, or over all where none does; ``most_suspicious_slice`` is the one
    with the highest, counted from 1 at the feet.
    """

    slices_with_lung: int
    highest_infected_probability: float
    mean_infected_probability: float
    most_suspicious_slice: int
    lung_pixels: int
    lesion_pixels: int
    pixels_by_type: dict[str, int]
    agreement: Agreement


def slice_findings(decisions: Decisions, heights_mm: Sequence[float] | None = None) -> tuple[SliceFindings, ...]:
    """The figures of every slice, feet to head; ``heights_mm`` above the first, where they are known."""
    return tuple(
        SliceFindings(
            slice=index + 1,
            infected_probability=float(decisions.infected_probability[index]),
            lung_pixels=int(np.count_nonzero(lung)),
            lesion_pixels=int(np.count_nonzero(lesion)),
            pixels_by_type=_count_types(types),
            percent_of_lung_involved=_percent(lesion > 0, lung > 0),
            position_mm=None if heights_mm is None else heights_mm[index],
        )
        for index, (lesion, types, lung) in enumerate(
            zip(decisions.lesion_mask, decisions.lesion_types, decisions.lung_mask, strict=True)
        )
    )


def study_findings(decisions: Decisions) -> StudyFindings:
    """The figures of the whole study."""
    slices = slice_findings(decisions)
    shown = [item for item in slices if item.lung_pixels] or slices
    suspicious = max(shown, key=lambda item: item.infected_probability)
    return StudyFindings(
        slices_with_lung=sum(1 for item in slices if item.lung_pixels),
        highest_infected_probability=suspicious.infected_probability,
        mean_infected_probability=float(np.mean([item.infected_probability for item in shown])),
        most_suspicious_slice=suspicious.slice,
        lung_pixels=sum(item.lung_pixels for item in slices),
        lesion_pixels=sum(item.lesion_pixels for item in slices),
        pixels_by_type={name: sum(item.pixels_by_type[name] for item in slices) for name in TYPE_NAMES},
        agreement=agreement(decisions.lesion_mask, decisions.lesion_types),
    )


def agreement(first: NDArray[Any], second: NDArray[Any]) -> Agreement:
    """Dice of what two masks of one shape mark, and the share of what either marks on which they differ."""
    marked = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    if marked == 0:
        return Agreement(None, None, flagged=False)
    # Slice by slice: a mask of truth values as large as the study is not needed.
    both = sum(int(np.count_nonzero((one > 0) & (other > 0))) for one, other in zip(first, second, strict=True))
    dice = 2 * both / marked
    return Agreement(dice, (marked - 2 * both) / (marked - both), flagged=dice < AGREEMENT_DICE)


def _count_types(types: NDArray[np.uint8]) -> dict[str, int]:
    return {name: int(np.count_nonzero(types == label)) for label, name in enumerate(TYPE_NAMES, start=1)}


def _percent(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float | None:
    pixels = int(np.count_nonzero(whole))
    return 100 * int(np.count_nonzero(part & whole)) / pixels if pixels else None
