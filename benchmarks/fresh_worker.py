"""The process of `fresh`: one network, loaded and run once, with nothing of another in its memory."""

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..engines.base import DYNAMIC
from ..engines.bundle import Bundle
from ..engines.open import file_precision
from .fresh import MORE_CALLS
from .nvml import Gpu, open_gpu
from .report import Fresh
from .timing import NS_PER_MS, time_call
from .ways import Way, open_way

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """The most memory that this process ever had resident.

    Of the kernel's own mark for this program: what getrusage tells is inherited from the process that started it.
    """
    for line in STATUS.read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} does not tell VmHWM")


def run(bundle: Bundle, way: Way, batch: int, pci_id: str | None) -> Fresh:
    """``pci_id``: where the GPU is that the way runs on."""
    feeds = _noise(bundle, way, batch)
    base = peak_bytes()
    with open_gpu(pci_id) as gpu:
        used_before = _used(gpu)
        import_ms = _ms(lambda: importlib.import_module(f"..engines.{way.choice.backend}_engine", __package__))
        start = time.perf_counter_ns()
        with open_way(bundle, way) as engine:
            load_ms = (time.perf_counter_ns() - start) / NS_PER_MS
            first_ms = _ms(lambda: engine.infer(feeds))
            for _ in range(MORE_CALLS):
                engine.infer(feeds)
            used_after = _used(gpu)
    return Fresh(
        import_ms=import_ms,
        load_ms=load_ms,
        first_ms=first_ms,
        base_bytes=base,
        peak_bytes=peak_bytes(),
        gpu_bytes=None if used_before is None or used_after is None else max(0, used_after - used_before),
    )


def _used(gpu: Gpu | None) -> int | None:
    return None if gpu is None else gpu.read().memory_used_bytes


def _noise(bundle: Bundle, way: Way, batch: int) -> dict[str, Any]:
    (tensor,) = bundle.require("network", file_precision(way.choice.backend, way.choice.precision)).inputs
    shape = [batch, *(1 if size == DYNAMIC else size for size in tensor.shape[1:])]
    return {tensor.name: np.random.default_rng(0).standard_normal(shape).astype(tensor.dtype)}


def _ms(call: Callable[[], object]) -> float:
    return time_call(call) / NS_PER_MS


def main() -> None:
    asked = json.loads(sys.argv[1])
    result = Path(asked["result"])
    try:
        bundle, way = Bundle.open(Path(asked["bundle"])), Way.from_dict(asked["way"])
        answer = run(bundle, way, asked["batch"], asked["gpu"]).model_dump_json()
    except Exception as error:  # a runtime that fails raises what it likes, and that is the answer
        answer = json.dumps({"error": str(error)})
    result.write_text(answer, encoding="utf-8")


if __name__ == "__main__":
    main()
