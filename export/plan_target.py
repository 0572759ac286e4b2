"""What a TensorRT plan is to be built for."""

from ..engines.bundle import PlanTarget, Runtime
from ..engines.cuda_memory import find_device
from ..engines.tensorrt_runtime import AMPERE, EXTRAS, installed_runtimes, load_runtime, numbers_of
from ..model.errors import MissingPackageError, UsageError


def plan_target(
    runtime: Runtime | None = None,
    *,
    compute_capability: str | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    weight_stripped: bool = False,
) -> PlanTarget:
    """What to build for: the first installed runtime and this machine's GPU, unless told otherwise.

    TensorRT builds for the GPU at hand. TensorRT-RTX builds for any that it knows and needs none; with neither a GPU
    nor a wish, for every GPU from Ampere on.

    Raises:
        MissingPackageError: no runtime is installed.
        UsageError: the runtime cannot build that here; the message has what it can.
    """
    if runtime is None:
        if not installed_runtimes():
            raise MissingPackageError(
                "tensorrt or tensorrt_rtx", purpose="a TensorRT plan", extra=EXTRAS["tensorrt_rtx"]
            )
        runtime = installed_runtimes()[0]
    loaded = load_runtime(runtime)
    device = find_device()
    if loaded.is_rtx:
        hardware_compatible = hardware_compatible or (compute_capability is None and device is None)
        if version_compatible:
            raise UsageError("tensorrt_rtx has no version-compatible plans: build one a version")
        if weight_stripped and device is None:
            raise UsageError("tensorrt_rtx strips weights only beside a GPU, and none can be used", page="no-gpu")
    elif device is None:
        raise UsageError(
            "tensorrt builds on the GPU that will run the plan, and none can be used here: "
            "build there, or with tensorrt_rtx",
            page="no-gpu",
        )
    elif compute_capability not in (None, device.compute_capability):
        raise UsageError(
            f"tensorrt builds for the GPU at hand, {device.compute_capability}, not for {compute_capability}: "
            "build there, or with tensorrt_rtx"
        )
    capability = compute_capability or (device.compute_capability if device else AMPERE)
    if hardware_compatible:
        if numbers_of(capability) < numbers_of(AMPERE):
            raise UsageError(f"a hardware-compatible plan needs Ampere ({AMPERE}) or newer, not {capability}")
        capability = AMPERE
    elif loaded.is_rtx and capability not in loaded.compute_capabilities():
        known = ", ".join(loaded.compute_capabilities())
        raise UsageError(
            f"tensorrt_rtx {loaded.version} knows the compute capabilities {known}, not {capability}: "
            f"use tensorrt, pip install 'coronanet[{EXTRAS['tensorrt']}]'",
            page="wrong-gpu",
        )
    return PlanTarget(
        runtime=runtime,
        version=loaded.version,
        compute_capability=capability,
        gpu=device.name if device else None,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        weight_stripped=weight_stripped,
    )
