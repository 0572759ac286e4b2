"""What only a GPU has: a call taken apart, and the board's clocks, power and energy under steady load."""

import time
from typing import Protocol, runtime_checkable

from ..engines.base import Tensors
from ..engines.cuda_engine import CudaEngine, StageTimes
from .nvml import Gpu, watch
from .report import GpuLoad, Stages

STAGED_CALLS = 50
#: Slow calls are taken apart less often: as many as fit into this, and never fewer than that.
STAGED_S, LEAST_STAGED = 1.0, 5
#: NVML's energy counter moves some ten times a second, so anything shorter says nothing.
STEADY_S = 2.0


@runtime_checkable
class Staged(Protocol):
    """An engine on the GPU, of ours or a peer's, that can take a call apart."""

    def time_stages(self, feeds: Tensors) -> StageTimes: ...


def measure_stages(engine: Staged, feeds: Tensors, *, calls: int = STAGED_CALLS) -> Stages:
    """Copies in, kernels and copies out of ``calls`` calls, fewer of slow ones, after one that is not counted."""
    engine.time_stages(feeds)
    deadline = time.perf_counter() + STAGED_S
    taken: list[StageTimes] = []
    while len(taken) < calls and (len(taken) < LEAST_STAGED or time.perf_counter() < deadline):
        taken.append(engine.time_stages(feeds))
    return Stages(
        upload_ns=tuple(one.upload_ns for one in taken),
        compute_ns=tuple(one.compute_ns for one in taken),
        download_ns=tuple(one.download_ns for one in taken),
    )


def measure_load(engine: CudaEngine, feeds: Tensors, batch: int, gpu: Gpu, *, seconds: float = STEADY_S) -> GpuLoad:
    """The GPU while one caller asks without a pause."""
    calls = 0

    def work() -> None:
        nonlocal calls
        deadline = time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            engine.infer(feeds)
            calls += 1

    seen = watch(gpu, work)
    return GpuLoad(
        seconds=seen.seconds,
        slices=calls * batch,
        readings=seen.readings,
        energy_j_per_slice=None if seen.energy_j is None else seen.energy_j / (calls * batch),
        power_w=seen.power_w,
        sm_clock_mhz=seen.sm_clock_mhz,
        memory_clock_mhz=seen.memory_clock_mhz,
        utilisation_share=seen.utilisation,
        memory_used_bytes=seen.memory_used_bytes,
        temperature_c=seen.temperature_c,
        throttles=seen.throttles,
    )
