"""What a GPU tells, with NVIDIA's own package over a driver library that is planted, and what is said without one."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from coronanet.benchmarks import gpu as module
from coronanet.benchmarks import nvml
from coronanet.benchmarks.gpu import measure_load, measure_stages
from coronanet.benchmarks.nvml import Gpu, gpu_moments, open_gpu, open_gpus, watch, why_no_nvml
from coronanet.engines import tensorrt_engine
from coronanet.engines.base import TensorSpec
from coronanet.engines.bundle import PlanTarget
from coronanet.engines.cuda_memory import Buffer
from coronanet.engines.nvidia import cuda_pci_id, driver_cuda
from coronanet.engines.tensorrt_engine import TensorRtEngine

#: libnvidia-ml.so.1 of two boards, of which CUDA's first is the second: 200 W, 1755 and 2619 MHz, 90 % busy, 5 GiB
#: used, 61 degrees, held by its power cap; its energy counter goes up by 10 J every time that it is read. It has no
#: answer to what it is not asked.
DRIVER = r"""
#include <string.h>
typedef unsigned int u; typedef unsigned long long ull;
static ull energy = 1000000;
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(u f) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int e) { return "planted"; }
int nvmlDeviceGetCount_v2(u *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(u i, void **h) { *h = (void *)(ull)(i + 1); return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **h) {
  if (strcmp(id, "0000:3b:00.0")) return 6; *h = (void *)2; return 0; }
int nvmlDeviceGetName(void *h, char *name, u n) { strncpy(name, "Planted H100", n); return 0; }
int nvmlDeviceGetPowerUsage(void *h, u *mw) { *mw = h == (void *)2 ? 200000 : 70000; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *h, ull *mj) { *mj = energy += 10000; return 0; }
int nvmlDeviceGetUtilizationRates(void *h, u *r) { r[0] = 90; r[1] = 40; return 0; }
int nvmlDeviceGetMemoryInfo(void *h, ull *m) { m[0] = 80ull << 30; m[1] = 75ull << 30; m[2] = 5ull << 30; return 0; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *h, ull *r) { *r = 4 | 1; return 0; }
int nvmlDeviceGetClockInfo(void *h, int kind, u *mhz) { *mhz = kind == 1 ? 1755 : 2619; return 0; }
int nvmlDeviceGetTemperature(void *h, int kind, u *t) { *t = 61; return 0; }
"""
#: libcuda.so.1 whose first GPU is the second of the bus, as with CUDA_VISIBLE_DEVICES=1.
CUDA = r"""
#include <string.h>
int cuInit(unsigned f) { return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetPCIBusId(char *name, int n, int d) { strncpy(name, "0000:3b:00.0", n); return 0; }
"""
ASK = """
import json, time
from coronanet.benchmarks.nvml import gpu_moments, open_gpu, watch, why_no_nvml
from coronanet.engines.nvidia import cuda_pci_id
with open_gpu(cuda_pci_id()) as gpu:
    seen = watch(gpu, lambda: time.sleep(1.0), period_s=0.02)
with open_gpu("0000:00:00.0") as nowhere:
    assert nowhere is None
moments = [each.model_dump() for each in gpu_moments()]
print(json.dumps({"moments": moments, "seen": vars(seen), "why": why_no_nvml()}))
"""


def test_clocks_power_memory_and_energy_are_what_the_driver_says_of_the_gpu_that_cuda_takes(tmp_path: Path) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or importlib.util.find_spec("pynvml") is None:
        pytest.skip("needs a C compiler and nvidia-ml-py")
    for name, text in (("libnvidia-ml.so.1", DRIVER), ("libcuda.so.1", CUDA)):
        source, library = tmp_path / f"{name}.c", tmp_path / name
        source.write_text(text)
        subprocess.run([compiler, "-shared", "-fPIC", "-w", "-o", library, source], check=True)
    environment = {"LD_LIBRARY_PATH": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["why"] is None
    assert [each["power_w"] for each in answer["moments"]] == [70.0, 200.0]
    assert answer["moments"][1] == {
        "name": "Planted H100",
        "sm_clock_mhz": 1755,
        "memory_clock_mhz": 2619,
        "power_w": 200.0,
        "temperature_c": 61,
        "utilisation": 0.9,
        "memory_used_bytes": 5 * 2**30,
    }
    seen = answer["seen"]
    assert seen["readings"] >= 3
    # One reading before the work and one after it, and those between: 10 J each.
    assert seen["energy_j"] == pytest.approx(10 * seen["readings"])
    assert (seen["power_w"], seen["sm_clock_mhz"], seen["utilisation"]) == (200.0, 1755.0, 0.9)
    assert seen["throttles"] == ["power cap"]


@pytest.mark.skipif(driver_cuda() is not None, reason="a driver is here")
def test_without_a_driver_nothing_is_told_and_the_reason_is() -> None:
    with open_gpus() as gpus, open_gpu(cuda_pci_id()) as gpu:
        assert (gpus, gpu, cuda_pci_id()) == ((), None, None)
    assert gpu_moments() == ()
    assert why_no_nvml()


def test_without_the_package_the_reason_is_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvml.importlib.util, "find_spec", lambda _: None)
    assert gpu_moments() == ()
    assert "pip install" in (why_no_nvml() or "")


class Refusing:
    """A ``pynvml`` of a board that tells nothing."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM = NVML_CLOCK_MEM = NVML_TEMPERATURE_GPU = 0

    def __getattr__(self, name: str) -> object:
        def refuse(*_: object) -> None:
            raise Refusing.NVMLError("not supported")

        return refuse


def test_what_a_board_does_not_tell_is_none_and_the_rest_goes_on() -> None:
    gpu = Gpu(Refusing(), None)
    assert gpu.read().power_w is None
    seen = watch(gpu, lambda: None)
    assert (seen.energy_j, seen.power_w, seen.throttles) == (None, None, ())


class PlantedCuda:
    """Notes what is queued; its kernels are a copy of the input's bytes to the output's."""

    captures = False
    stream = 0

    def __init__(self) -> None:
        self.log: list[str] = []
        self.closed = False

    def buffer(self, size: int) -> Buffer:
        return Buffer(np.zeros(size, np.uint8), 0)

    def upload(self, buffer: Buffer, size: int) -> None:
        self.log.append("upload")

    def download(self, buffer: Buffer, size: int) -> None:
        self.log.append("download")

    def synchronise(self) -> None:
        self.log.append("wait")

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[TensorRtEngine, PlantedCuda]:
    """The real engine over a planted GPU."""
    cuda = PlantedCuda()

    class Context:
        def set_input_shape(self, *_: object) -> None: ...
        def set_tensor_address(self, *_: object) -> None: ...
        def execute_async_v3(self, _: int) -> bool:
            cuda.log.append("compute")
            return True

    class Planted:
        messages: tuple[str, ...] = ()

        def create_execution_context(self) -> Context:
            return Context()

    monkeypatch.setattr(tensorrt_engine, "open_cuda", lambda: cuda)
    monkeypatch.setattr(tensorrt_engine, "load_runtime", lambda _: Planted())
    monkeypatch.setattr(tensorrt_engine, "load_plan", lambda *_: Planted())
    monkeypatch.setattr(tensorrt_engine, "_check_tensors", lambda *_: None)
    target = PlanTarget(runtime="tensorrt", version="11.1", compute_capability="9.0", gpu=None)
    x, y = TensorSpec("x", "float32", (-1, 4)), TensorSpec("y", "float32", (-1, 4))
    return TensorRtEngine(tmp_path / "no.plan", (x,), (y,), 8, target=target), cuda


def test_a_call_is_taken_apart_with_a_wait_after_every_stage(planted: tuple[TensorRtEngine, PlantedCuda]) -> None:
    engine, cuda = planted
    stages = measure_stages(engine, {"x": np.zeros((2, 4), np.float32)}, calls=3)
    assert cuda.log == ["wait", "upload", "wait", "compute", "wait", "download", "wait"] * 4
    assert [len(one) for one in (stages.upload_ns, stages.compute_ns, stages.download_ns)] == [3, 3, 3]
    assert min(*stages.upload_ns, *stages.compute_ns, *stages.download_ns) > 0
    assert not engine.replays_graphs


def test_energy_a_slice_is_that_of_the_board_over_the_slices_done(
    planted: tuple[TensorRtEngine, PlantedCuda], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(Refusing):
        energy = 0

        def nvmlDeviceGetTotalEnergyConsumption(self, _: object) -> int:  # noqa: N802 - NVML's own name
            self.energy += 500_000
            return self.energy

    monkeypatch.setattr(module, "watch", lambda gpu, work: watch(gpu, work, period_s=10))
    load = measure_load(planted[0], {"x": np.zeros((2, 4), np.float32)}, 2, Gpu(Counting(), None), seconds=0.05)
    assert load.slices > 0
    assert load.energy_j_per_slice == pytest.approx(500 / load.slices)
    assert load.power_w is None
