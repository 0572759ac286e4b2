"""Plan sets: which TensorRT plan of a bundle runs on this machine, and what to say where none does."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..model.errors import MissingPackageError, Page, UsageError
from ..model.tasks import TASK_NAMES
from .bundle import CARD, WEIGHTS, Bundle, FileRecord, Manifest, PlanTarget, Precision, Runtime
from .cuda_memory import open_cuda
from .places import bundle_home
from .tensorrt_runtime import installed_runtimes, load_runtime, numbers_of

FOLDER = "plans"
#: Hashes of the plans that this process built.
built_here: set[str] = set()
SHORT: dict[Runtime, str] = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}


@dataclass(frozen=True)
class Host:
    """What a plan would run on here: one installed runtime and the GPU."""

    runtime: Runtime
    version: str
    compute_capability: str
    gpu: str

    def __str__(self) -> str:
        return f"{self.gpu}, compute capability {self.compute_capability}, {self.runtime} {self.version}"


def plan_name(target: PlanTarget, precision: Precision) -> str:
    """Where a plan lies in its bundle, such as ``plans/sm86-rtx1.7-fp16.plan``; ``sm80plus`` is Ampere and newer."""
    capability = f"sm{target.compute_capability.replace('.', '')}{'plus' if target.hardware_compatible else ''}"
    version = ".".join(map(str, numbers_of(target.version)[:2]))
    return f"{FOLDER}/{capability}-{SHORT[target.runtime]}{version}-{precision}.plan"


def plans_of(manifest: Manifest, precision: Precision | None = None) -> tuple[FileRecord, ...]:
    """The plans of a bundle, of one precision or of all."""
    return tuple(
        record
        for record in manifest.files
        if record.kind == "plan" and record.target is not None and precision in (None, record.precision)
    )


def runs_on(target: PlanTarget, host: Host) -> bool:
    """Whether a plan is made for what is here.

    The version must be the same to its last digit, or newer for a version-compatible plan of TensorRT; the compute
    capability must be the same, or newer for a hardware-compatible plan.
    """
    if target.runtime != host.runtime:
        return False
    here, built = numbers_of(host.version), numbers_of(target.version)
    if here != built and not (target.version_compatible and here > built):
        return False
    gpu, wanted = numbers_of(host.compute_capability), numbers_of(target.compute_capability)
    return gpu == wanted or (target.hardware_compatible and gpu > wanted)


def choose_plan(bundle: Bundle, precision: Precision, hosts: Sequence[Host]) -> tuple[FileRecord, Host]:
    """The plan to run, and on which of ``hosts``: of the preferred runtime, made for exactly this before compatible.

    Raises:
        UsageError: none fits; the message has the plans that are there, what is here, and the command that builds one.
    """
    for host in hosts:
        fitting = [
            (record.target.hardware_compatible, record.target.version_compatible, record.path, record)
            for record in plans_of(bundle.manifest, precision)
            if record.target is not None and runs_on(record.target, host)
        ]
        if fitting:
            return min(fitting, key=lambda each: each[:3])[3], host
    there = ", ".join(record.path for record in plans_of(bundle.manifest, precision))
    raise UsageError(
        f"{bundle.path} has no {precision} plan for this machine ({'; '.join(map(str, hosts))}), only {there}: "
        f"build one here with `{build_command(bundle, precision)}`",
        page=_anchor(bundle, precision, hosts),
    )


def require_plans(bundle: Bundle, precision: Precision) -> None:
    """Say so at once where a bundle has no plan at all in a precision, whatever the machine.

    Raises:
        UsageError: it has none.
    """
    if not plans_of(bundle.manifest, precision):
        raise UsageError(
            f"{bundle.path} has no {precision} TensorRT plan: build one on the machine that will run it with "
            f"`{build_command(bundle, precision)}`",
            page="wrong-gpu",
        )


def build_command(bundle: Bundle, precision: Precision) -> str:
    """The command that exports this bundle again with a plan; a bundle is also the source of its own export."""
    precisions = {record.precision for record in bundle.manifest.files if record.kind == "onnx"} | {precision}
    flag = "".join(f" --{each}" for each in ("fp16", "int8") if each in precisions)
    if bundle.card.network.is_own:
        folder = bundle.path
        own = f"--network MODULE:FUNCTION --weights {folder / WEIGHTS} --card {folder / CARD}"
        return f"coronanet export {own}{flag} --tensorrt --out {folder.parent}"
    if bundle.manifest.name in TASK_NAMES and bundle.path.parent == bundle_home(None):
        return f"coronanet export {bundle.manifest.name}{flag} --tensorrt"
    return f"coronanet export {bundle.path}{flag} --tensorrt --out {bundle.path.parent}"


def find_hosts() -> tuple[Host, ...]:
    """Every installed runtime with the GPU, the preferred first.

    Raises:
        MissingPackageError: no runtime is installed.
        UsageError: no GPU can be used, no runtime runs on it, or one cannot be imported.
    """
    runtimes = installed_runtimes()
    if not runtimes:
        raise MissingPackageError("tensorrt or tensorrt_rtx", purpose="a TensorRT plan", extra="rtx")
    cuda = open_cuda()
    device = cuda.device
    cuda.close()
    loaded = [load_runtime(name) for name in runtimes]
    hosts = tuple(
        Host(each.name, each.version, device.compute_capability, device.name)
        for each in loaded
        if each.takes_gpu(device.compute_capability)
    )
    if not hosts:
        known = ", ".join(capability for each in loaded for capability in each.compute_capabilities())
        raise UsageError(
            f"{' and '.join(f'{each.name} {each.version}' for each in loaded)} does not run on {device.name}, compute "
            f"capability {device.compute_capability}, but on {known} and newer: use tensorrt, or --backend torch_cuda",
            page="wrong-gpu",
        )
    return hosts


def _anchor(bundle: Bundle, precision: Precision, hosts: Sequence[Host]) -> Page:
    """Whether a plan would fit but for its version, or none is for this GPU."""
    targets = [record.target for record in plans_of(bundle.manifest, precision) if record.target is not None]
    right_gpu = any(
        runs_on(target.model_copy(update={"version": host.version}), host) for target in targets for host in hosts
    )
    return "plan-version" if right_gpu else "wrong-gpu"
