"""The machine that runs: its CPU and what that computes natively, its memory, its GPUs; never a host or user name."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ..model.card import StrictModel

#: Instead of a version, where a checkout is run as it is.
NOT_INSTALLED = "not installed"
CPUINFO = Path("/proc/cpuinfo")
STATUS = Path("/proc/self/status")
#: What Linux calls the instructions that decide how fast a network runs, by the name that people use.
CPU_FEATURES = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "BF16": ("avx512_bf16",),
    "AMX": ("amx_tile",),
}
TIMEOUT_S = 10


class Machine(StrictModel):
    """One machine; ``cores`` are those that this process may use, ``cpu_features`` keys of ``CPU_FEATURES``."""

    cpu: str
    cpu_features: tuple[str, ...]
    architecture: str
    cores: int
    memory_bytes: int
    system: str
    gpus: tuple[str, ...]


def observe_machine() -> Machine:
    cpuinfo = CPUINFO.read_text(encoding="utf-8") if CPUINFO.is_file() else ""
    return Machine(
        cpu=_field(cpuinfo, "model name") or platform.processor() or "unknown",
        cpu_features=cpu_features(cpuinfo),
        architecture=platform.machine(),
        cores=available_cores(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        gpus=_gpus(),
    )


def cpu_features(cpuinfo: str) -> tuple[str, ...]:
    """The keys of ``CPU_FEATURES`` that the text of ``/proc/cpuinfo`` shows."""
    flags = set(_field(cpuinfo, "flags").split())
    return tuple(name for name, spellings in CPU_FEATURES.items() if flags.intersection(spellings))


def saturates_int8(cpu_features: Sequence[str]) -> bool:
    """Whether products of int8 are added in int16 on such a CPU, which overflows where both factors are large.

    So x86 does without VNNI (``vpmaddubsw``), in ONNX Runtime and OpenVINO alike; weights of 7 bits do not overflow.
    """
    return "AVX2" in cpu_features and "VNNI" not in cpu_features


def peak_memory_bytes() -> int | None:
    """The most of this process that was ever resident, None where the system does not tell."""
    peak = _field(STATUS.read_text(encoding="ascii", errors="replace"), "VmHWM") if STATUS.is_file() else ""
    return int(peak.split()[0]) * 1024 if peak else None


def available_cores() -> int:
    """Cores that this process may use, which a container or taskset can make fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _field(cpuinfo: str, name: str) -> str:
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _gpus() -> tuple[str, ...]:
    """Name, memory, driver and compute capability of each NVIDIA GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    asked = ("name", "memory.total", "driver_version", "compute_cap")
    answer = _ask([tool, f"--query-gpu={','.join(asked)}", "--format=csv,noheader"])
    # It also prints warnings there. A name may have a comma in it.
    return tuple(line.strip() for line in answer.splitlines() if line.count(", ") >= len(asked) - 1)


def _ask(command: Sequence[str]) -> str:
    """What a command prints; nothing where it fails or hangs, as nvidia-smi does without its driver."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
