"""What a GPU says of itself through NVML, with NVIDIA's own ``nvidia-ml-py``: clocks, power, use, memory, energy.

Everything here is empty or None where the package or the driver is missing: a measurement goes on without.
"""

import importlib.util
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..model.card import StrictModel

PERIOD_S = 0.05
MW_PER_W = 1000
MJ_PER_J = 1000
#: What holds a clock down, by NVML's bit; being idle is none of them.
THROTTLES = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal, software",
    0x40: "thermal, hardware",
    0x80: "power brake",
}


class GpuMoment(StrictModel):
    """One GPU at rest before the measurement, as NVML tells of it; ``utilisation`` 0..1."""

    name: str
    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    power_w: float | None
    temperature_c: int | None
    utilisation: float | None
    memory_used_bytes: int | None


@dataclass(frozen=True)
class Reading:
    """One look at a GPU; None is what it would not tell. ``utilisation`` 0..1, ``throttles`` values of `THROTTLES`."""

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    power_w: float | None
    temperature_c: int | None
    utilisation: float | None
    memory_used_bytes: int | None
    energy_j: float | None
    throttles: frozenset[str]


class Gpu:
    """One GPU, open for questions.

    Args:
        api: the module ``pynvml``, initialised.
        handle: its handle of the device.
    """

    def __init__(self, api: Any, handle: Any) -> None:
        self._api, self._handle = api, handle

    @property
    def name(self) -> str:
        return str(self._api.nvmlDeviceGetName(self._handle))

    def read(self) -> Reading:
        api = self._api
        power, energy = self._ask(api.nvmlDeviceGetPowerUsage), self._ask(api.nvmlDeviceGetTotalEnergyConsumption)
        rates, memory = self._ask(api.nvmlDeviceGetUtilizationRates), self._ask(api.nvmlDeviceGetMemoryInfo)
        held = self._ask(api.nvmlDeviceGetCurrentClocksThrottleReasons) or 0
        return Reading(
            sm_clock_mhz=self._ask(api.nvmlDeviceGetClockInfo, api.NVML_CLOCK_SM),
            memory_clock_mhz=self._ask(api.nvmlDeviceGetClockInfo, api.NVML_CLOCK_MEM),
            power_w=None if power is None else power / MW_PER_W,
            temperature_c=self._ask(api.nvmlDeviceGetTemperature, api.NVML_TEMPERATURE_GPU),
            utilisation=None if rates is None else rates.gpu / 100,
            memory_used_bytes=None if memory is None else int(memory.used),
            energy_j=None if energy is None else energy / MJ_PER_J,
            throttles=frozenset(name for bit, name in THROTTLES.items() if held & bit),
        )

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """The answer, or None where this GPU or driver has none."""
        try:
            return question(self._handle, *arguments)
        except self._api.NVMLError:
            return None


@dataclass(frozen=True)
class Watched:
    """A GPU over a stretch of work: means of what was read, and the energy between its first and last reading.

    ``power_w``, ``sm_clock_mhz`` and ``utilisation`` are means of the readings, ``memory_used_bytes`` the most.
    """

    seconds: float
    readings: int
    energy_j: float | None
    power_w: float | None
    sm_clock_mhz: float | None
    memory_clock_mhz: float | None
    utilisation: float | None
    memory_used_bytes: int | None
    temperature_c: int | None
    throttles: tuple[str, ...]


def watch(gpu: Gpu, work: Callable[[], object], *, period_s: float = PERIOD_S) -> Watched:
    """Run ``work`` and read the GPU all the while, from a thread of its own, at its start and at its end."""
    stop = threading.Event()
    between: list[Reading] = []

    def look() -> None:
        while not stop.wait(period_s):
            between.append(gpu.read())

    first, start = gpu.read(), time.perf_counter()
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        work()
        seconds = time.perf_counter() - start
        last = gpu.read()
    finally:
        stop.set()
        thread.join()
    # What was read before the work is of a GPU at rest, and counts only as where the energy begins.
    return _sum_up(seconds, first, [*between, last])


def _sum_up(seconds: float, first: Reading, during: list[Reading]) -> Watched:
    last = during[-1]
    energy = None
    if first.energy_j is not None and last.energy_j is not None:
        energy = last.energy_j - first.energy_j
    return Watched(
        seconds=seconds,
        readings=len(during),
        energy_j=energy,
        power_w=_mean([one.power_w for one in during]),
        sm_clock_mhz=_mean([one.sm_clock_mhz for one in during]),
        memory_clock_mhz=_mean([one.memory_clock_mhz for one in during]),
        utilisation=_mean([one.utilisation for one in during]),
        memory_used_bytes=max(
            (one.memory_used_bytes for one in during if one.memory_used_bytes is not None), default=None
        ),
        temperature_c=last.temperature_c,
        throttles=tuple(sorted(frozenset[str]().union(*(one.throttles for one in during)))),
    )


def _mean(values: list[float | None] | list[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


@contextmanager
def open_gpus() -> Generator[tuple[Gpu, ...]]:
    """Every GPU that NVML shows, for the length of the block; none where the package or the driver is missing."""
    with _api() as api:
        count = api.nvmlDeviceGetCount() if api else 0
        yield tuple(Gpu(api, api.nvmlDeviceGetHandleByIndex(index)) for index in range(count))


@contextmanager
def open_gpu(pci_id: str | None) -> Generator[Gpu | None]:
    """The GPU at a place on the PCI bus, as `engines.nvidia.cuda_pci_id` tells it; None where NVML shows none there."""
    with _api() as api:
        gpu = None
        if api is not None and pci_id is not None:
            with suppress(api.NVMLError):
                gpu = Gpu(api, api.nvmlDeviceGetHandleByPciBusId(pci_id.encode("ascii")))
        yield gpu


@contextmanager
def _api() -> Generator[Any]:
    """The module ``pynvml``, initialised for the length of the block; None where it or the driver is missing."""
    if importlib.util.find_spec("pynvml") is None:
        yield None
        return
    import pynvml as api

    try:
        api.nvmlInit()
    except api.NVMLError:
        yield None
        return
    try:
        yield api
    finally:
        api.nvmlShutdown()


def why_no_nvml() -> str | None:
    """What is between us and NVML, with the remedy; None where it answers."""
    if importlib.util.find_spec("pynvml") is None:
        return "nvidia-ml-py is not installed: pip install 'coronanet[gpu]' (or [rtx])"
    import pynvml as api

    try:
        api.nvmlInit()
    except api.NVMLError as error:
        return f"NVML does not answer ({error}): no NVIDIA driver is here"
    api.nvmlShutdown()
    return None


def gpu_moments() -> tuple[GpuMoment, ...]:
    """Every GPU as it is now."""
    with open_gpus() as gpus:
        return tuple(_moment(gpu.name, gpu.read()) for gpu in gpus)


def _moment(name: str, seen: Reading) -> GpuMoment:
    return GpuMoment(
        name=name,
        sm_clock_mhz=seen.sm_clock_mhz,
        memory_clock_mhz=seen.memory_clock_mhz,
        power_w=seen.power_w,
        temperature_c=seen.temperature_c,
        utilisation=seen.utilisation,
        memory_used_bytes=seen.memory_used_bytes,
    )
