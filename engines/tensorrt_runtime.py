"""One adapter over `tensorrt` (10.12 and newer, 11) and `tensorrt_rtx`: what is installed, its log, what differs.

Strong typing is a flag up to 10.16, and accepted and ignored from 11 on and by TensorRT-RTX, so it is always set.
"""

import importlib
import importlib.util
from collections import deque
from functools import cache
from typing import Any, get_args

from ..model.errors import MissingPackageError, UsageError
from .bundle import PlanTarget, Runtime

#: In the order in which they are preferred.
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
EXTRAS: dict[Runtime, str] = {"tensorrt": "gpu", "tensorrt_rtx": "rtx"}
#: The first with everything that is used here.
LEAST_TENSORRT = (10, 12)
#: The compute capability of the oldest GPU that a hardware-compatible plan runs on, with either runtime.
AMPERE = "8.0"
KEPT_MESSAGES = 50


def installed_runtimes() -> tuple[Runtime, ...]:
    """The runtimes that can be imported, the preferred first; nothing is imported."""
    return tuple(name for name in RUNTIMES if importlib.util.find_spec(name) is not None)


class TensorRT:
    """One of the two, imported.

    Attributes:
        api: the module; the two have nearly one interface, and neither is typed.
        version: as in ``"11.1.0.106"``.
        log: the process's logger; the library keeps the first that it is given.
    """

    def __init__(self, name: Runtime, api: Any) -> None:
        self.name: Runtime = name
        self.api = api
        self.version: str = api.__version__
        self.messages: deque[str] = deque(maxlen=KEPT_MESSAGES)
        self.log = _make_log(api, self.messages)

    @property
    def is_rtx(self) -> bool:
        return self.name == "tensorrt_rtx"

    def create_network(self, builder: Any) -> Any:
        """An empty strongly typed network: every tensor has the type that the ONNX file gives it."""
        return builder.create_network(1 << int(self.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))

    def compute_capabilities(self) -> tuple[str, ...]:
        """Those that this runtime can build for with no GPU; TensorRT builds for the GPU at hand alone."""
        if not self.is_rtx:
            return ()
        named = [name[2:] for name in self.api.ComputeCapability.__members__ if name.startswith("SM")]
        return tuple(f"{digits[:-1]}.{digits[-1]}" for digits in named)

    def takes_gpu(self, compute_capability: str) -> bool:
        """Whether this runtime runs on such a GPU at all: TensorRT-RTX on those it names and on what is newer still.

        It builds for any GPU that it is asked for, Hopper among them, and only when it loads the plan says no.
        """
        known = self.compute_capabilities()
        newest = max(map(numbers_of, known), default=())
        return not self.is_rtx or compute_capability in known or numbers_of(compute_capability) > newest

    def apply_target(self, config: Any, target: PlanTarget) -> None:
        """Tell a builder's configuration what the plan must run on."""
        api = self.api
        if self.is_rtx:
            # Without a target it is portable from Ampere on.
            if not target.hardware_compatible:
                config.num_compute_capabilities = 1
                name = f"SM{target.compute_capability.replace('.', '')}"
                config.set_compute_capability(getattr(api.ComputeCapability, name), 0)
        else:
            levels = api.HardwareCompatibilityLevel
            # By default a plan belongs to one model of GPU; ours are named, and served, by compute capability.
            config.hardware_compatibility_level = (
                levels.AMPERE_PLUS if target.hardware_compatible else levels.SAME_COMPUTE_CAPABILITY
            )
        if target.version_compatible:
            config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
        if target.weight_stripped:
            config.set_flag(api.BuilderFlag.STRIP_PLAN)
            # TensorRT-RTX refits with any weights only; there TensorRT 11.3 names wrong numbers as a known issue.
            config.set_flag(api.BuilderFlag.REFIT if self.is_rtx else api.BuilderFlag.REFIT_IDENTICAL)

    def can_capture(self, context: Any, stream: int) -> bool:
        """Whether what a context queues can become a CUDA graph; TensorRT-RTX may still be compiling its kernels."""
        return not self.is_rtx or bool(context.is_stream_capturable(stream))

    @property
    def has_timing_cache(self) -> bool:
        """Whether a build times kernels; TensorRT-RTX chooses them where the plan runs."""
        return not self.is_rtx


@cache
def load_runtime(name: Runtime) -> TensorRT:
    """The runtime of that name, imported on first use.

    Raises:
        MissingPackageError: it is not installed.
        UsageError: it cannot be imported, or is too old.
    """
    if name not in installed_runtimes():
        raise MissingPackageError(name, purpose="a TensorRT plan", extra=EXTRAS[name])
    try:
        api = importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise UsageError(f"{name} is installed but cannot be imported: {str(error).splitlines()[0]}") from error
    runtime = TensorRT(name, api)
    if not runtime.is_rtx and numbers_of(runtime.version)[:2] < LEAST_TENSORRT:
        wanted = ".".join(map(str, LEAST_TENSORRT))
        raise UsageError(f"expected tensorrt {wanted} or newer, found {runtime.version}: pip install 'coronanet[gpu]'")
    return runtime


def numbers_of(dotted: str) -> tuple[int, ...]:
    """A version, or a compute capability, as numbers that compare: ``"11.1.0.106"`` is ``(11, 1, 0, 106)``."""
    return tuple(int(part) for part in dotted.split(".") if part.isdigit())


def _make_log(api: Any, messages: deque[str]) -> Any:
    class Log(api.ILogger):
        """Keeps what went wrong for our own errors; the rest is not for people."""

        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(api.ILogger.Severity.ERROR):
                messages.append(message)

    return Log()
