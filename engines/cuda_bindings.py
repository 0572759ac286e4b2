"""CUDA through NVIDIA's own cuda-python."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from cuda.bindings import runtime  # pyright: ignore[reportAttributeAccessIssue] - compiled, without stubs

from ..model.errors import UsageError
from .cuda_memory import Buffer, Device, NoGpuError, out_of_memory


class BindingsCuda:
    """``cuda_memory.Cuda`` on the CUDA runtime API.

    Raises:
        NoGpuError: no GPU or no driver.
    """

    captures = True

    def __init__(self) -> None:
        error, count = _call(runtime.cudaGetDeviceCount)
        if error or not count:
            raise NoGpuError(_reason(error) if error else "no CUDA device")
        _ok(runtime.cudaSetDevice, 0)
        properties = _ok(runtime.cudaGetDeviceProperties, 0)
        self.device = Device(properties.name.decode().strip("\0"), f"{properties.major}.{properties.minor}")
        self.stream = int(_ok(runtime.cudaStreamCreateWithFlags, runtime.cudaStreamNonBlocking))
        self._pinned: list[int] = []
        self._device: list[int] = []
        self._graphs: list[Any] = []

    def buffer(self, size: int) -> Buffer:
        pinned = int(_ok(runtime.cudaHostAlloc, size, runtime.cudaHostAllocDefault))
        self._pinned.append(pinned)
        address = int(_ok(runtime.cudaMalloc, size))
        self._device.append(address)
        return Buffer(np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pinned)), address)

    def upload(self, buffer: Buffer, size: int) -> None:
        kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        _ok(runtime.cudaMemcpyAsync, buffer.address, buffer.host.ctypes.data, size, kind, self.stream)

    def download(self, buffer: Buffer, size: int) -> None:
        kind = runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        _ok(runtime.cudaMemcpyAsync, buffer.host.ctypes.data, buffer.address, size, kind, self.stream)

    def synchronise(self) -> None:
        _ok(runtime.cudaStreamSynchronize, self.stream)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        _ok(runtime.cudaStreamBeginCapture, self.stream, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        finally:
            graph = _ok(runtime.cudaStreamEndCapture, self.stream)
        executable = _ok(runtime.cudaGraphInstantiate, graph, 0)
        _ok(runtime.cudaGraphDestroy, graph)
        self._graphs.append(executable)
        return lambda: _ok(runtime.cudaGraphLaunch, executable, self.stream)

    def close(self) -> None:
        for executable in self._graphs:
            _ok(runtime.cudaGraphExecDestroy, executable)
        for address in self._device:
            _ok(runtime.cudaFree, address)
        for pinned in self._pinned:
            _ok(runtime.cudaFreeHost, pinned)
        if self.stream:
            _ok(runtime.cudaStreamDestroy, self.stream)
        self._graphs, self._device, self._pinned, self.stream = [], [], [], 0


def _call(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """Error (0 is none) and value of a call; the bindings return both in a tuple."""
    error, *values = function(*arguments)
    return error, values[0] if values else None


def _ok(function: Callable[..., Any], *arguments: Any) -> Any:
    error, value = _call(function, *arguments)
    if error == runtime.cudaError_t.cudaErrorMemoryAllocation:
        raise out_of_memory()
    if error:
        raise UsageError(f"CUDA failed in {function.__name__}: {_reason(error)}")
    return value


def _reason(error: Any) -> str:
    """CUDA's own words and number, such as "CUDA error 35: CUDA driver version is insufficient…"."""
    _, text = runtime.cudaGetErrorString(error)
    return f"CUDA error {int(error)}: {text.decode()}"
