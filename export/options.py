"""What an export writes beside the float32 network, and by which measure."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..engines.bundle import BatchRange, CalibrationMethod, PlanTarget, Quantizer
from ..engines.non_inferiority import MARGIN
from ..engines.slices import GateSlices

if TYPE_CHECKING:
    from ..engines.keys import SigningKey
    from ..model.networks import Builder

#: The largest batch of a graph unless the export asks for another.
MAX_BATCH = 8


@dataclass(frozen=True)
class Wanted:
    """What to write beside the fp32 network.

    Attributes:
        half: an fp16 network.
        calibration: training slices for an int8 network; None writes none.
        method: how their ranges are read.
        quantizer: whose ranges and pairs.
        margin: how much Dice or AUC a reduced precision may lose.
        optional: whether a reduced precision that a gate refuses is left out instead of ending the export.
        max_batch: the largest batch of every graph.
        rebuilds: how often each network is built, to see what changes from build to build.
        targets: what to build TensorRT plans for, one of each network and target.
        builder: makes the network of a card whose family is ``own``.
        signer: signs the manifest, where there is one.
    """

    half: bool = False
    calibration: GateSlices | None = None
    method: CalibrationMethod = "min-max"
    quantizer: Quantizer = "onnxruntime"
    margin: float = MARGIN
    optional: bool = False
    max_batch: int = MAX_BATCH
    rebuilds: int = 1
    targets: tuple[PlanTarget, ...] = ()
    builder: "Builder | None" = None
    signer: "SigningKey | None" = None

    @property
    def batch(self) -> BatchRange:
        """The batch sizes of every graph; TensorRT tunes its kernels for half of the largest."""
        return BatchRange(min=1, opt=max(1, self.max_batch // 2), max=self.max_batch)


PLAIN = Wanted()
