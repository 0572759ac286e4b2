"""CUDA through pycuda, for whoever has it already; it builds only beside a CUDA toolkit, and is not typed."""

import importlib
from collections.abc import Callable
from typing import Any

from ..model.errors import UsageError
from .cuda_memory import Buffer, Device, NoGpuError, out_of_memory


class PycudaCuda:
    """``cuda_memory.Cuda`` on pycuda's driver API, in the GPU's primary context.

    Raises:
        NoGpuError: no GPU or no driver.
    """

    captures = False

    def __init__(self) -> None:
        self._driver: Any = importlib.import_module("pycuda.driver")
        try:
            self._driver.init()
            device = self._driver.Device(0)
        except self._driver.Error as error:
            raise NoGpuError(f"pycuda: {error}") from None
        self.device = Device(device.name(), "{}.{}".format(*device.compute_capability()))
        self._context = device.retain_primary_context()
        self._context.push()
        self._stream = self._driver.Stream()
        self._device: list[Any] = []

    @property
    def stream(self) -> int:
        return self._stream.handle

    def buffer(self, size: int) -> Buffer:
        try:
            device = self._driver.mem_alloc(size)
            self._device.append(device)
            return Buffer(self._driver.pagelocked_empty(size, "uint8"), int(device))
        except self._driver.MemoryError as error:
            raise out_of_memory() from error

    def upload(self, buffer: Buffer, size: int) -> None:
        self._driver.memcpy_htod_async(buffer.address, buffer.host[:size], self._stream)

    def download(self, buffer: Buffer, size: int) -> None:
        self._driver.memcpy_dtoh_async(buffer.host[:size], buffer.address, self._stream)

    def synchronise(self) -> None:
        self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        del work
        raise UsageError("pycuda captures no CUDA graphs: pip install 'cuda-python>=13'")

    def close(self) -> None:
        for device in self._device:
            device.free()
        self._device.clear()
        if self._context is not None:
            self._context.pop()
            self._context = None
