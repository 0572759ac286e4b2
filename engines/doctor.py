"""What is here, what is missing, and the command that brings it; needs nothing but the core packages."""

import importlib.metadata
import importlib.util
import platform
import re
import sys
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .machine import NOT_INSTALLED, Machine, installed_version, observe_machine
from .nvidia import Nvidia, observe_nvidia
from .places import ROOT
from .trials import Trial, run_trials

#: The modules that each verb imports beyond the core packages, once the weights that ship have been exported.
VERBS: dict[str, tuple[str, ...]] = {
    "train": ("torch", "lightning", "monai"),
    "evaluate": ("torch",),
    "sweep": ("torch", "lightning", "matplotlib"),
    "weak": ("torch", "lightning"),
    "ucsd": ("torch", "lightning"),
    "export": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "verify": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "predict": ("onnxruntime",),
    "predict --server": ("tritonclient",),
    "predict --dicom": ("onnxruntime", "highdicom"),
    "repository": ("onnxruntime",),
    "serve": ("onnxruntime", "prometheus_client", "pytriton", "tritonclient"),
    "bench engines": ("onnxruntime",),
    "bench compare": (),
    "bench serving": ("tritonclient",),
    "bench study": ("onnxruntime",),
    "bench waterfall": ("tritonclient",),
    "bench report": (),
    "bench table": (),
    "bench triage": ("onnxruntime",),
    "bench untrained": ("torch",),
    "demo": ("torch", "onnx", "onnxscript", "onnxruntime", "pytriton", "tritonclient"),
    "keygen": ("cryptography",),
    "doctor": (),
}
#: The extra that brings a module.
EXTRAS = {
    "cryptography": "sign",
    "highdicom": "dicom",
    "lightning": "train",
    "matplotlib": "train",
    "monai": "train",
    "onnx": "train",
    "onnxruntime": "cpu",
    "onnxscript": "train",
    "prometheus_client": "serve",
    "pytriton": "serve",
    "torch": "train",
    "tritonclient": "serve",
}
#: The C library that the server of nvidia-pytriton was built against.
SERVER_GLIBC = (2, 35)


@dataclass(frozen=True)
class Package:
    """A package that an extra asks for (``core``: no extra); ``version`` None is not installed, and ``remedy`` the
    command that brings it."""

    name: str
    extra: str
    version: str | None
    remedy: str | None


@dataclass(frozen=True)
class Verb:
    """A verb and the modules that it misses here; ``remedy`` is the command that brings them."""

    name: str
    missing: tuple[str, ...]
    remedy: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What `coronanet doctor` says.

    ``triton_server`` is the version of the wheel with the embedded server, None where it is not installed. ``problems``
    are installed things that do not work together, one line each.
    """

    coronanet: str
    python: str
    machine: Machine
    nvidia: Nvidia
    packages: tuple[Package, ...]
    triton_server: str | None
    trials: tuple[Trial, ...]
    verbs: tuple[Verb, ...]
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "machine": self.machine.model_dump(mode="json")}


def examine() -> Diagnosis:
    """Look at this interpreter and this machine, and try every backend, which takes some seconds."""
    machine = observe_machine()
    nvidia = observe_nvidia(machine)
    return Diagnosis(
        coronanet=installed_version("coronanet") or NOT_INSTALLED,
        python=platform.python_version(),
        machine=machine,
        nvidia=nvidia,
        packages=list_packages(requirements()),
        triton_server=installed_version("nvidia-pytriton") if find_server() else None,
        trials=run_trials(),
        verbs=tuple(diagnose(name, modules) for name, modules in VERBS.items()),
        problems=(*find_problems(), *([nvidia.problem] if nvidia.problem else [])),
    )


def requirements() -> list[str]:
    """What is asked for, as metadata spells it; of pyproject.toml where the checkout is run without being installed."""
    try:
        return importlib.metadata.requires("coronanet") or []
    except importlib.metadata.PackageNotFoundError:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]
    return project["dependencies"] + [
        f'{each}; extra == "{extra}"' for extra, asked in extras.items() for each in asked
    ]


def list_packages(requirements: list[str]) -> tuple[Package, ...]:
    """The packages of requirements as metadata spells them, such as ``onnx>=1.20; extra == "cpu"``."""
    packages: list[Package] = []
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra == ['"]([\w-]+)['"]""", requirement)
        if name:
            version, group = installed_version(name[0]), extra[1] if extra else "core"
            packages.append(Package(name[0], group, version, None if version else extra_remedy(group)))
    return tuple(packages)


def extra_remedy(extra: str) -> str:
    """The command that installs an extra (``core``: no extra)."""
    if extra == "core":
        return "pip install coronanet"
    command = f"pip install 'coronanet[{extra}]'"
    # The two onnxruntimes overwrite each other, so the GPU's comes only where the CPU's has gone.
    return (
        f"pip uninstall onnxruntime, then {command}" if extra == "gpu" and installed_version("onnxruntime") else command
    )


def diagnose(verb: str, modules: tuple[str, ...]) -> Verb:
    """Which of the modules of a verb are missing, and the command that installs them."""
    missing = tuple(module for module in modules if importlib.util.find_spec(module) is None)
    extras = sorted({EXTRAS[module] for module in missing})
    return Verb(verb, missing, f"pip install 'coronanet[{','.join(extras)}]'" if missing else None)


def find_server() -> Path | None:
    """The Triton server of the nvidia-pytriton wheel, which is never imported."""
    spec = importlib.util.find_spec("pytriton")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder) / "tritonserver" / "bin" / "tritonserver"
        if binary.is_file():
            return binary
    return None


def find_problems() -> list[str]:
    """Installed things that do not work together, one line each with its remedy."""
    problems: list[str] = []
    if installed_version("onnxruntime") and installed_version("onnxruntime-gpu"):
        problems.append(
            "onnxruntime and onnxruntime-gpu overwrite each other: "
            "pip uninstall both, then install 'coronanet[cpu]' or 'coronanet[gpu]'"
        )
    server = find_server()
    if server is None:
        return problems
    if not (installed_version("numpy") or "").startswith("1."):
        problems.append("the embedded Triton server returns wrong tensors under numpy 2: pip install 'numpy<2'")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if not (server.parent.parent / "python_backend_stubs" / version).is_dir():
        problems.append(f"the embedded Triton server has no stub for Python {version}: use Python 3.11")
    library, release = platform.libc_ver()
    if library != "glibc" or tuple(map(int, release.split(".")[:2])) < SERVER_GLIBC:
        wanted, found = ".".join(map(str, SERVER_GLIBC)), f"{library} {release}".strip() or "another C library"
        problems.append(f"the embedded Triton server needs glibc {wanted}, here is {found}: use NVIDIA's container")
    return problems
