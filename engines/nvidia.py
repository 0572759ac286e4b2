"""What of NVIDIA's is here: GPUs, their driver, the CUDA that it speaks, TensorRT. Needs none of it installed."""

import ctypes
from dataclasses import dataclass
from pathlib import Path

from .machine import Machine, installed_version

#: The driver's own library, which answers without a GPU in use and without any Python package.
DRIVER_LIBRARY = "libcuda.so.1"
PCI = Path("/sys/bus/pci/devices")
VENDOR, DISPLAY = "0x10de", "0x03"
#: The distributions of TensorRT, by module.
TENSORRT = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}


@dataclass(frozen=True)
class Gpu:
    """One GPU as nvidia-smi tells of it."""

    name: str
    memory: str
    driver: str
    compute_capability: str


@dataclass(frozen=True)
class Nvidia:
    """``cuda`` is the newest version that the driver runs, ``cuda_python`` and ``tensorrt`` (by module) what is
    installed; ``problem`` says what is between a GPU and its use."""

    gpus: tuple[Gpu, ...]
    cuda: str | None
    cuda_python: str | None
    tensorrt: dict[str, str]
    problem: str | None


def observe_nvidia(machine: Machine) -> Nvidia:
    gpus = tuple(parse_gpu(line) for line in machine.gpus)
    found = {module: installed_version(name) for module, name in TENSORRT.items()}
    return Nvidia(
        gpus=gpus,
        cuda=driver_cuda(),
        cuda_python=installed_version("cuda-python"),
        tensorrt={module: version for module, version in found.items() if version is not None},
        problem=_problem(gpus),
    )


def parse_gpu(line: str) -> Gpu:
    """A line of ``machine.gpus``: name, memory, driver, compute capability."""
    name, memory, driver, capability = line.rsplit(", ", 3)
    return Gpu(name, memory, driver, capability)


def driver_cuda() -> str | None:
    """The CUDA version of the driver, such as ``13.0``; None where no driver is."""
    version = ctypes.c_int()
    try:
        if ctypes.CDLL(DRIVER_LIBRARY).cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except OSError:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def cuda_pci_id() -> str | None:
    """Where on the PCI bus CUDA's first GPU is, such as ``0000:3b:00.0``; None where the driver finds none.

    CUDA numbers GPUs by what the environment says (``CUDA_VISIBLE_DEVICES``, ``CUDA_DEVICE_ORDER``), NVML does not:
    this is the name that both know.
    """
    device, name = ctypes.c_int(), ctypes.create_string_buffer(32)
    try:
        driver = ctypes.CDLL(DRIVER_LIBRARY)
        failed = (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(device), 0)
            or driver.cuDeviceGetPCIBusId(name, len(name), device)
        )
    except (OSError, AttributeError):
        return None
    return None if failed else name.value.decode("ascii")


def has_card(devices: Path = PCI) -> bool:
    """Whether the PCI bus shows a GPU of NVIDIA, with a driver or without."""
    return any(
        _read(device / "vendor") == VENDOR and _read(device / "class").startswith(DISPLAY)
        for device in (devices.iterdir() if devices.is_dir() else ())
    )


def _problem(gpus: tuple[Gpu, ...]) -> str | None:
    if gpus or not has_card():
        return None
    return "an NVIDIA GPU is in this machine and nvidia-smi does not see it: install its driver, nvidia.com/drivers"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
