"""What running a plan needs of CUDA: a GPU, a stream, pinned and device memory, graphs.

Three packages give it: cuda-python, torch, pycuda. The first that is there and finds a GPU is used.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..model.errors import MissingPackageError, UsageError


@dataclass(frozen=True)
class Device:
    """A GPU; ``compute_capability`` as in ``"8.6"``."""

    name: str
    compute_capability: str


@dataclass(frozen=True)
class Buffer:
    """The same bytes twice: pinned memory of the host as uint8 ``[bytes]``, and an address on the GPU."""

    host: NDArray[np.uint8]
    address: int

    def view(self, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        """The first bytes of the host's half as an array."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.host[:size].view(dtype).reshape(shape)


class Cuda(Protocol):
    """The first GPU with one stream of its own; everything is queued on it, nothing waits but ``synchronise``."""

    @property
    def device(self) -> Device: ...
    @property
    def stream(self) -> int: ...
    @property
    def captures(self) -> bool:
        """Whether ``capture`` works."""
        ...

    def buffer(self, size: int) -> Buffer:
        """``size`` bytes on both sides, until ``close``.

        Raises:
            UsageError: either side has no memory left.
        """
        ...

    def upload(self, buffer: Buffer, size: int) -> None: ...
    def download(self, buffer: Buffer, size: int) -> None: ...
    def synchronise(self) -> None: ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What ``work`` queues, as one CUDA graph: returns what replays it."""
        ...

    def close(self) -> None: ...


def open_cuda() -> Cuda:
    """The first GPU, through whichever package is there.

    Raises:
        MissingPackageError: none of the three is installed.
        UsageError: no GPU can be used; the message has CUDA's reason.
    """
    reasons: list[str] = []
    for opener in (_bindings, _torch, _pycuda):
        try:
            return opener()
        except ModuleNotFoundError:
            continue
        except NoGpuError as error:
            reasons.append(str(error))
    if not reasons:
        raise MissingPackageError("cuda-python", purpose="running a TensorRT plan", extra="rtx")
    raise no_gpu(reasons)


def no_gpu(reasons: Sequence[str]) -> UsageError:
    """The error where every package that could ask for a GPU has a reason why there is none."""
    return UsageError(
        f"no NVIDIA GPU can be used here ({'; '.join(reasons)}): run elsewhere, or choose another backend",
        page="no-gpu",
    )


def out_of_memory() -> UsageError:
    """The error where the GPU, or the memory that the host pins for it, has no room left."""
    return UsageError("the GPU is out of memory: end what else uses it, or send smaller batches", page="out-of-memory")


def find_device() -> Device | None:
    """The first GPU, None where there is none or nothing that could ask for it."""
    try:
        cuda = open_cuda()
    except UsageError:
        return None
    device = cuda.device
    cuda.close()
    return device


class NoGpuError(Exception):
    """A package found no GPU or no driver."""


def _bindings() -> Cuda:
    from .cuda_bindings import BindingsCuda

    return BindingsCuda()


def _torch() -> Cuda:
    from .cuda_torch import TorchCuda

    return TorchCuda()


def _pycuda() -> Cuda:
    from .cuda_pycuda import PycudaCuda

    return PycudaCuda()
