"""The machine as it is recorded."""

import os
import socket
import subprocess
import sys

import pytest
from coronanet.engines import machine
from coronanet.engines.machine import available_cores, cpu_features, installed_version, observe_machine

XEON = "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 amx_tile amx_bf16\n"
LAPTOP = "processor\t: 0\nflags\t\t: fpu avx2 avx_vnni\n"


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [(XEON, ("AVX2", "AVX-512", "VNNI", "BF16", "AMX")), (LAPTOP, ("AVX2", "VNNI")), ("Features : asimd\n", ())],
)
def test_cpu_features_are_read_from_the_flags(cpuinfo: str, features: tuple[str, ...]) -> None:
    assert cpu_features(cpuinfo) == features


def test_the_record_names_neither_host_nor_user() -> None:
    text = observe_machine().model_dump_json()
    assert socket.gethostname() not in text
    assert os.path.expanduser("~") not in text


@pytest.mark.skipif(sys.platform != "linux", reason="CPU affinity is a thing of Linux")
def test_cores_are_those_that_this_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_gpu_tool_that_hangs_or_fails_means_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*command: object, **options: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    monkeypatch.setattr(machine.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(machine.subprocess, "run", hang)
    assert observe_machine().gpus == ()


def test_what_nvidia_smi_says_beside_its_gpus_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = "NVIDIA H200, 143771 MiB, 570.86.15, 9.0"
    monkeypatch.setattr(machine.shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(machine, "_ask", lambda _: f"WARNING: infoROM is corrupted at gpu 0000:3B:00.0\n\n{gpu}\n")
    assert observe_machine().gpus == (gpu,)


def test_a_package_that_is_not_installed_has_no_version() -> None:
    assert installed_version("no-such-distribution-anywhere") is None
