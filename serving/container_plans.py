"""Which TensorRT plans of a bundle NVIDIA's Triton container runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..engines.bundle import Bundle, FileRecord, PlanTarget, Precision
from ..engines.plans import plans_of
from ..engines.tensorrt_runtime import numbers_of
from ..model.tasks import TaskName

#: The fastest first; a plan that was not worth it on the machine that built it does not count.
PREFERRED: tuple[Precision, ...] = ("int8", "fp16", "fp32")


@dataclass(frozen=True)
class ContainerPlans:
    """One plan for each compute capability, and one for every other GPU from Ampere on, where there is one."""

    by_capability: Mapping[str, FileRecord]
    other: FileRecord | None

    @property
    def records(self) -> tuple[FileRecord, ...]:
        return (*self.by_capability.values(), *((self.other,) if self.other else ()))


def container_plans(bundle: Bundle) -> ContainerPlans:
    """Of the plans that Triton can load the proved ones: of the newest TensorRT, then of the fastest precision.

    Triton has TensorRT alone, of one version, and neither gives a plan its weights nor, unless told to, runs the code
    that a version-compatible plan carries; so those of TensorRT-RTX, and both of these, stay out.
    """
    servable = [
        (record.target, record)
        for record in plans_of(bundle.manifest)
        if record.target is not None and _is_servable(record, record.target)
    ]
    # The best comes last, and so is what the dictionary keeps.
    servable.sort(key=lambda each: (numbers_of(each[0].version), _rank(each[1])))
    return ContainerPlans(
        {target.compute_capability: record for target, record in servable if not target.hardware_compatible},
        next((record for target, record in reversed(servable) if target.hardware_compatible), None),
    )


def without_plans(bundles: Mapping[TaskName, Bundle]) -> tuple[TaskName, ...]:
    """The tasks that the container cannot serve with TensorRT: their bundles have no plan for it."""
    return tuple(name for name, bundle in bundles.items() if not container_plans(bundle).records)


def file_name(record: FileRecord) -> str:
    """What a plan is called in the version folder of its model."""
    return Path(record.path).name


def _is_servable(record: FileRecord, target: PlanTarget) -> bool:
    plain = not target.weight_stripped and not target.version_compatible
    return target.runtime == "tensorrt" and plain and record.is_proved and record.verdicts.get("worth_it") != "refused"


def _rank(record: FileRecord) -> int:
    return -PREFERRED.index(record.precision) if record.precision in PREFERRED else -len(PREFERRED)
