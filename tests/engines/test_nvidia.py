"""What of NVIDIA's is here, told without any of it installed."""

import ctypes
from pathlib import Path
from typing import Any

import pytest
from coronanet.engines import nvidia
from coronanet.engines.machine import observe_machine
from coronanet.engines.nvidia import Gpu, driver_cuda, has_card, observe_nvidia, parse_gpu


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A PCI bus with a GPU of NVIDIA and a network card of somebody else."""
    for name, vendor, kind in (("a", "0x8086", "0x020000"), ("b", "0x10de", "0x030200")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    return tmp_path


def test_a_line_of_nvidia_smi_is_taken_apart() -> None:
    line = "NVIDIA H100, 80GB HBM3, 81559 MiB, 570.86.15, 9.0"
    assert parse_gpu(line) == Gpu("NVIDIA H100, 80GB HBM3", "81559 MiB", "570.86.15", "9.0")


def test_the_driver_says_which_cuda_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver:
        def __init__(self, name: str) -> None:
            assert name == "libcuda.so.1"

        def cuDriverGetVersion(self, version: Any) -> int:  # noqa: N802 - the driver's own name
            ctypes.cast(version, ctypes.POINTER(ctypes.c_int))[0] = 12080
            return 0

    monkeypatch.setattr(nvidia.ctypes, "CDLL", Driver)
    assert driver_cuda() == "12.8"


def test_without_a_driver_there_is_no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "DRIVER_LIBRARY", "libnowhere.so.1")
    assert driver_cuda() is None


def test_a_card_is_seen_on_the_bus_without_its_driver(card: Path, tmp_path: Path) -> None:
    assert has_card(card)
    (card / "b" / "class").write_text("0x040300\n")
    assert not has_card(card), "the sound of a graphics card is no GPU"
    assert not has_card(tmp_path / "nowhere")


def test_a_card_without_its_driver_is_a_problem_with_its_remedy(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = observe_machine().model_copy(update={"gpus": ()})
    monkeypatch.setattr(nvidia, "has_card", lambda: True)
    assert "install its driver" in (observe_nvidia(machine).problem or "")
    seen = machine.model_copy(update={"gpus": ("T4, 15360 MiB, 570.86.15, 7.5",)})
    assert observe_nvidia(seen).problem is None


def test_tensorrt_is_named_by_module_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "installed_version", {"tensorrt-rtx": "1.7.1.116", "cuda-python": "13.4.4"}.get)
    found = observe_nvidia(observe_machine())
    assert found.tensorrt == {"tensorrt_rtx": "1.7.1.116"}
    assert found.cuda_python == "13.4.4"
