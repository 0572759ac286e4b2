"""What this machine reaches at its best: operations a second in each precision, bytes a second of its memory.

Measured with the engines that are compared, each on one layer that is all computing, so that a network's distance from
the roof is what its own layers lose and not what the library cannot do at all.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..engines.base import Engine, TensorSpec
from ..engines.bundle import Precision
from ..engines.machine import available_cores
from ..engines.open import PRECISIONS, Backend, file_precision, is_installed, open_onnx
from ..model.errors import CoronanetError, UsageError
from .report import Ceilings, MemoryLevel
from .timing import NS_PER_S, Call, time_call

#: One 3 x 3 convolution of 256 channels to 256 on 32 x 32 pixels, and one product: 1.2 and 1.1 billion operations.
CHANNELS, SIDE, KERNEL = 256, 32, 3
PRODUCT = 820
WORKING_SETS = tuple(2**20 * size for size in (1, 4, 16, 128))
STREAM_S = 0.2
LIMIT_S = 0.4
WARM_UP = 3
GPU_PRODUCT = 8192
GPU_WORKING_SETS = (2**25, 2**30)
#: Calls of a GPU that are waited for together.
TOGETHER = 10


def measure_cpu_ceilings(threads: int | None) -> Ceilings:
    """The best rate of any backend in every precision that it has here, and how fast bytes are copied."""
    best: dict[str, tuple[float, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for what, precision, flops, call in _cpu_layers(Path(folder), threads):
            rate = flops * NS_PER_S / fastest(call)
            if rate > best.get(precision, (0.0, ""))[0]:
                best[precision] = (rate, what)
    memory = memory_levels(threads or available_cores())
    return Ceilings(
        device="cpu",
        flops_per_s={precision: rate for precision, (rate, _) in best.items()},
        reached_by={precision: what for precision, (_, what) in best.items()},
        bytes_per_s=memory[-1].bytes_per_s,
        memory=memory,
    )


def fastest(call: Call, *, limit_s: float = LIMIT_S) -> int:
    """The shortest of the calls that fit into a time, in nanoseconds: a ceiling is what was ever reached."""
    for _ in range(WARM_UP):
        call()
    deadline = time.perf_counter() + limit_s
    best = time_call(call)
    while time.perf_counter() < deadline:
        best = min(best, time_call(call))
    return max(1, best)


def memory_levels(threads: int) -> tuple[MemoryLevel, ...]:
    """The rate of a copy on all threads by working set, the Copy of McCalpin's STREAM from cache to memory."""
    return tuple(MemoryLevel(working_set_bytes=size, bytes_per_s=copy_rate(size, threads)) for size in WORKING_SETS)


def copy_rate(working_set: int, threads: int) -> float:
    """Bytes a second, read and written, of copies whose source and target together take ``working_set`` bytes."""
    size = working_set // (2 * threads)
    parts = [(np.ones(size, np.uint8), np.zeros(size, np.uint8)) for _ in range(threads)]
    # Enough of them that starting the threads does not count.
    times = max(1, WORKING_SETS[-1] // working_set)

    def copy_part(part: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
        # numpy lets go of the interpreter while it copies.
        for _ in range(times):
            np.copyto(part[1], part[0])

    with ThreadPoolExecutor(threads) as pool:
        return (
            2 * size * threads * times * NS_PER_S / fastest(lambda: list(pool.map(copy_part, parts)), limit_s=STREAM_S)
        )


def _cpu_layers(folder: Path, threads: int | None) -> Iterator[tuple[str, str, int, Call]]:
    """Every layer on every backend and precision that opens here: its name, precision, operations, and the call."""
    backends: tuple[Backend, ...] = ("onnxruntime", "openvino")
    for name, make in (("convolution", convolution), ("product", product)):
        for backend in backends:
            if not is_installed(backend):
                continue
            for precision in PRECISIONS[backend]:
                file = folder / f"{name}-{file_precision(backend, precision)}.onnx"
                if not file.exists():
                    onnx.save(make(file_precision(backend, precision)), file)
                shape, flops = layer_size(name)
                spec = TensorSpec("x", "float32", shape)
                try:
                    engine = open_onnx(
                        file,
                        (spec,),
                        (TensorSpec("y", "float32", shape),),
                        shape[0],
                        backend=backend,
                        precision=precision,
                        threads=threads,
                    )
                except CoronanetError:
                    continue
                with engine:
                    yield f"{backend}, a {name}", precision, flops, _call(engine, shape)


def layer_size(name: str) -> tuple[tuple[int, ...], int]:
    """The shape of a layer's input, and of its output, and its operations."""
    if name == "convolution":
        return (1, CHANNELS, SIDE, SIDE), 2 * CHANNELS * CHANNELS * KERNEL * KERNEL * SIDE * SIDE
    return (PRODUCT, PRODUCT), 2 * PRODUCT**3


def convolution(precision: Precision) -> onnx.ModelProto:
    """``x`` to ``y``, float32, with one convolution in the precision between."""
    weights = np.random.default_rng(0).standard_normal((CHANNELS, CHANNELS, KERNEL, KERNEL), np.float32)
    return _model("Conv", weights, layer_size("convolution")[0], precision, pads=[KERNEL // 2] * 4)


def product(precision: Precision) -> onnx.ModelProto:
    """``x`` to ``y``, float32, with one matrix product in the precision between."""
    weights = np.random.default_rng(0).standard_normal((PRODUCT, PRODUCT), np.float32)
    return _model("MatMul", weights, layer_size("product")[0], precision)


def _model(
    operator: str, weights: NDArray[np.float32], shape: tuple[int, ...], precision: Precision, **attributes: Any
) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    match precision:
        case "int8":
            scale = float(np.abs(weights).max()) / 127
            quantised = np.round(weights / scale).astype(np.int8)
            constants += [
                numpy_helper.from_array(quantised, "w8"),
                numpy_helper.from_array(np.array(scale, np.float32), "w_scale"),
                numpy_helper.from_array(np.array(4 / 127, np.float32), "x_scale"),
                numpy_helper.from_array(np.array(0, np.int8), "zero"),
            ]
            nodes += [
                helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["x8"]),
                helper.make_node("DequantizeLinear", ["x8", "x_scale", "zero"], ["xd"]),
                helper.make_node("DequantizeLinear", ["w8", "w_scale", "zero"], ["w"]),
                helper.make_node(operator, ["xd", "w"], ["y"], **attributes),
            ]
        case "fp16":
            constants.append(numpy_helper.from_array(weights.astype(np.float16), "w"))
            nodes += [
                helper.make_node("Cast", ["x"], ["xh"], to=TensorProto.FLOAT16),
                helper.make_node(operator, ["xh", "w"], ["yh"], **attributes),
                helper.make_node("Cast", ["yh"], ["y"], to=TensorProto.FLOAT),
            ]
        case "fp32" | "bf16":
            constants.append(numpy_helper.from_array(weights, "w"))
            nodes.append(helper.make_node(operator, ["x", "w"], ["y"], **attributes))
    graph = helper.make_graph(
        nodes,
        operator,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _call(engine: Engine, shape: tuple[int, ...]) -> Call:
    feeds = {"x": np.random.default_rng(1).standard_normal(shape, np.float32)}
    return lambda: engine.infer(feeds)


def measure_gpu_ceilings() -> Ceilings:
    """The same of the first GPU, by torch's products and copies.

    Raises:
        UsageError: there is no torch for CUDA, or no GPU.
    """
    if not is_installed("torch"):
        raise UsageError("GPU ceilings need torch for CUDA, which is not installed")
    import torch

    if not torch.cuda.is_available():
        raise UsageError("GPU ceilings need a torch that was built for CUDA and a GPU")
    torch.backends.cuda.matmul.allow_tf32 = False
    return torch_ceilings("cuda", torch.cuda.synchronize, GPU_PRODUCT, GPU_WORKING_SETS)


def torch_ceilings(device: str, synchronize: Callable[[], object], side: int, working_sets: Sequence[int]) -> Ceilings:
    """What torch reaches on a device by products ``[side, side]`` of noise and by copies; a precision that it cannot
    multiply there is left out.

    Args:
        synchronize: waits for the device; once after `TOGETHER` calls, so that the wait weighs little.
        working_sets: bytes that a copy reads and writes, the last larger than any cache.
    """
    import torch

    def fastest_ns(work: Callable[[], object]) -> float:
        def call() -> None:
            for _ in range(TOGETHER):
                work()
            synchronize()

        return fastest(call) / TOGETHER

    # Noise, since products of equal numbers take less power, and so run at higher clocks, than those of a network.
    numbers: dict[str, torch.Tensor] = {
        precision: torch.randn(side, side, device=device, dtype=kind)
        for precision, kind in {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}.items()
    }
    numbers["int8"] = torch.randint(-128, 128, (side, side), device=device, dtype=torch.int8)
    rates: dict[str, float] = {}
    for precision, one in numbers.items():
        product: Callable[..., object] = torch._int_mm if precision == "int8" else torch.matmul  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        try:
            rates[precision] = 2 * side**3 * NS_PER_S / fastest_ns(partial(product, one, one))
        except RuntimeError:
            continue
    memory: list[MemoryLevel] = []
    for size in working_sets:
        source = torch.ones(size // 2, device=device, dtype=torch.uint8)
        rate = size * NS_PER_S / fastest_ns(partial(torch.empty_like(source).copy_, source))
        memory.append(MemoryLevel(working_set_bytes=size, bytes_per_s=rate))
    return Ceilings(
        device="gpu",
        flops_per_s=rates,
        reached_by=dict.fromkeys(rates, "torch, a product"),
        bytes_per_s=memory[-1].bytes_per_s,
        memory=tuple(memory),
    )
