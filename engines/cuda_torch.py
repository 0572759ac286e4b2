"""CUDA through torch, where torch was built with it."""

import math
import re
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager

import torch

from .cuda_memory import Buffer, Device, NoGpuError, out_of_memory


class TorchCuda:
    """``cuda_memory.Cuda`` on torch's allocator, stream and graphs.

    Raises:
        NoGpuError: torch has no CUDA, or finds no GPU.
    """

    captures = True

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise NoGpuError("torch was built without CUDA" if torch.version.cuda is None else "torch finds no GPU")
        major, minor = torch.cuda.get_device_capability(0)
        self.device = Device(torch.cuda.get_device_name(0), f"{major}.{minor}")
        self._stream = torch.cuda.Stream(device=0)
        self._memory: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._graphs: list[torch.cuda.CUDAGraph] = []

    @property
    def stream(self) -> int:
        return self._stream.cuda_stream

    def buffer(self, size: int) -> Buffer:
        with memory_told():
            host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            device = torch.empty(size, dtype=torch.uint8, device="cuda:0")
        self._memory[device.data_ptr()] = host, device
        return Buffer(host.numpy(), device.data_ptr())

    def tensor(self, buffer: Buffer, kind: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
        """The first bytes of a buffer's half on the GPU."""
        _, device = self._memory[buffer.address]
        return device[: math.prod(shape) * kind.itemsize].view(kind).view(shape)

    def current(self) -> AbstractContextManager[None]:
        """Makes the stream torch's own for a block."""
        return torch.cuda.stream(self._stream)

    def upload(self, buffer: Buffer, size: int) -> None:
        host, device = self._memory[buffer.address]
        with self.current():
            device[:size].copy_(host[:size], non_blocking=True)

    def download(self, buffer: Buffer, size: int) -> None:
        host, device = self._memory[buffer.address]
        with self.current():
            host[:size].copy_(device[:size], non_blocking=True)

    def synchronise(self) -> None:
        self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            work()
        self._graphs.append(graph)

        def replay() -> None:
            with self.current():
                graph.replay()

        return replay

    def close(self) -> None:
        self._graphs.clear()
        self._memory.clear()


@contextmanager
def memory_told() -> Generator[None]:
    """Says in one line that there is no memory left.

    Raises:
        UsageError: there is none.
    """
    try:
        yield
    # Of its own allocator, of pinned memory, and of cuBLAS: three kinds of it, which no version names alike.
    except RuntimeError as error:
        if not re.search(r"out of memory|CU\w+_STATUS_ALLOC_FAILED", str(error)):
            raise
        raise out_of_memory() from error
