"""The TensorRT plans of a bundle in the making: those that were there already, those asked for, and their proof."""

from collections.abc import Callable, Sequence

from ..engines.bundle import Bundle, FileRecord, Manifest, PlanTarget
from ..engines.parity import Reference
from .plan_parity import prove_plans
from .to_tensorrt import build_plan, carry_plans


def with_plans(
    bundle: Bundle,
    targets: Sequence[PlanTarget],
    previous: Bundle | None,
    reference: Reference,
    *,
    margin: float,
    progress: Callable[[str], None],
) -> Manifest:
    """The bundle's manifest with a plan of every network for every target.

    Args:
        bundle: the bundle in the making, its networks proved.
        previous: the bundle that it replaces, whose plans are kept as ``to_tensorrt.carry_plans`` says.
        progress: told what is being built.

    Raises:
        UsageError, RefusedError: as ``to_tensorrt.build_plan``.
    """
    networks = tuple(record for record in bundle.manifest.files if record.kind == "onnx" and record.graph == "network")
    plans: list[FileRecord] = []
    for target in targets:
        for record in networks:

            def say(step: str, path: str = record.path, target: PlanTarget = target) -> None:
                progress(f"{path} for compute capability {target.compute_capability}: {step}")

            plans.append(build_plan(bundle.path, record, target, progress=say))
    if previous is not None:
        plans += carry_plans(previous, bundle, networks, margin=margin)
    manifest = bundle.manifest.model_copy(update={"files": (*bundle.manifest.files, *plans)})
    progress("plans that run here")
    proved = prove_plans(bundle.with_manifest(manifest), reference, margin=margin)
    return manifest.model_copy(update={"files": tuple(proved.get(record.path, record) for record in manifest.files)})
