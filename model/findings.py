"""What the four decisions on a study add up to: figures a slice and for the whole, and how far the networks agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .tally import Tally
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


def slice_findings(
    tally: Tally, infected_probability: NDArray[np.float32], heights_mm: Sequence[float] | None = None
) -> tuple[SliceFindings, ...]:
    """The figures of every slice, feet to head; ``heights_mm`` above the first, where they are known."""
    lung, lesion, both, kinds = tally.lung, tally.lesion, tally.lesion_in_lung, tally.kinds
    return tuple(
        SliceFindings(
            slice=index + 1,
            infected_probability=float(probability),
            lung_pixels=int(lung[index]),
            lesion_pixels=int(lesion[index]),
            pixels_by_type={name: int(kinds[index, label]) for label, name in enumerate(TYPE_NAMES, start=1)},
            percent_of_lung_involved=100 * int(both[index]) / int(lung[index]) if lung[index] else None,
            position_mm=None if heights_mm is None else heights_mm[index],
        )
        for index, probability in enumerate(infected_probability)
    )


def study_findings(slices: Sequence[SliceFindings], marked_by_both: int) -> StudyFindings:
    """The figures of the whole study, from those of its slices and the pixels that both lesion networks mark."""
    shown = [item for item in slices if item.lung_pixels] or slices
    suspicious = max(shown, key=lambda item: item.infected_probability)
    lesion_pixels = sum(item.lesion_pixels for item in slices)
    by_type = {name: sum(item.pixels_by_type[name] for item in slices) for name in TYPE_NAMES}
    return StudyFindings(
        slices_with_lung=sum(1 for item in slices if item.lung_pixels),
        highest_infected_probability=suspicious.infected_probability,
        mean_infected_probability=float(np.mean([item.infected_probability for item in shown])),
        most_suspicious_slice=suspicious.slice,
        lung_pixels=sum(item.lung_pixels for item in slices),
        lesion_pixels=lesion_pixels,
        pixels_by_type=by_type,
        agreement=agreement(lesion_pixels, sum(by_type.values()), marked_by_both),
    )


def agreement(one: int, other: int, both: int) -> Agreement:
    """Dice and disagreement of two masks, from the pixels that each marks and those that both mark."""
    marked = one + other
    if marked == 0:
        return Agreement(None, None, flagged=False)
    dice = 2 * both / marked
    return Agreement(dice, (marked - 2 * both) / (marked - both), flagged=dice < AGREEMENT_DICE)
