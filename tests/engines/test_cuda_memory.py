"""A GPU through whichever package is there."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from coronanet.engines import cuda_memory
from coronanet.engines.cuda_memory import Buffer, Cuda, Device, NoGpuError, find_device, open_cuda
from coronanet.engines.cuda_pycuda import PycudaCuda
from coronanet.engines.cuda_torch import TorchCuda
from coronanet.model.errors import MissingPackageError, UsageError


def _raise(error: Exception) -> Callable[..., Any]:
    def opener(*_: object, **__: object) -> Any:
        raise error

    return opener


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """What cuda-python, torch and pycuda answer, in this order."""

    def plant(*openers: Callable[[], Any]) -> None:
        for name, opener in zip(("_bindings", "_torch", "_pycuda"), openers, strict=True):
            monkeypatch.setattr(cuda_memory, name, opener)

    return plant


MISSING = _raise(ModuleNotFoundError())


def test_the_first_package_that_finds_a_gpu_is_used(packages: Callable[..., None]) -> None:
    there = SimpleNamespace(device=Device("NVIDIA L4", "8.9"), close=lambda: None)
    packages(_raise(NoGpuError("no driver")), lambda: there, MISSING)
    assert open_cuda() is there
    assert find_device() == Device("NVIDIA L4", "8.9")


def test_where_no_package_finds_one_every_reason_is_given(packages: Callable[..., None]) -> None:
    packages(_raise(NoGpuError("CUDA error 35: too old")), _raise(NoGpuError("torch was built without CUDA")), MISSING)
    with pytest.raises(UsageError, match=r"\(CUDA error 35: too old; torch was built without CUDA\): run elsewhere"):
        open_cuda()
    assert find_device() is None


def test_where_no_package_is_there_the_extra_is_named(packages: Callable[..., None]) -> None:
    packages(MISSING, MISSING, MISSING)
    with pytest.raises(MissingPackageError, match=r"cuda-python, .*coronanet\[rtx\]"):
        open_cuda()


@pytest.mark.skipif(find_device() is not None, reason="a GPU is here")
def test_cuda_itself_says_why_there_is_none_here() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    with pytest.raises(UsageError, match=r"CUDA error (35|100): "):
        open_cuda()


def test_a_view_is_the_first_bytes_of_the_pinned_memory() -> None:
    buffer = Buffer(np.zeros(64, np.uint8), address=0)
    buffer.view("float32", (2, 3))[:] = 1
    assert buffer.host.view(np.float32)[:6].tolist() == [1] * 6
    assert not buffer.host[24:].any()


class DriverError(Exception):
    """What pycuda raises."""


class DriverMemoryError(DriverError):
    """And where memory ran out."""


def through_bindings(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    module = pytest.importorskip("coronanet.engines.cuda_bindings", reason="cuda-python is not installed")
    kinds = module.runtime.cudaError_t
    exhausted = SimpleNamespace(
        cudaError_t=kinds, cudaHostAllocDefault=0, cudaHostAlloc=lambda *_: (kinds.cudaErrorMemoryAllocation, None)
    )
    monkeypatch.setattr(module, "runtime", exhausted)
    return object.__new__(module.BindingsCuda)


def through_torch(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Cuda:
    monkeypatch.setattr(torch, "empty", _raise(error))
    return object.__new__(TorchCuda)


def through_pycuda(monkeypatch: pytest.MonkeyPatch, **calls: Callable[..., Any]) -> Cuda:
    context = SimpleNamespace(push=lambda: None, pop=lambda: None)
    device = SimpleNamespace(
        name=lambda: "NVIDIA L4", compute_capability=lambda: (8, 9), retain_primary_context=lambda: context
    )
    driver = SimpleNamespace(
        Error=DriverError,
        MemoryError=DriverMemoryError,
        init=lambda: None,
        Device=lambda _: device,
        Stream=lambda: None,
    )
    driver.mem_alloc = lambda _: 0
    vars(driver).update(calls)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    return PycudaCuda()


TORCH_GPU = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
TORCH_PINNED = torch.cuda.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously")
TORCH_CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
PYCUDA = DriverMemoryError("cuMemAlloc failed: out of memory")


@pytest.mark.parametrize(
    "exhausted",
    [
        pytest.param(through_bindings, id="cuda-python"),
        pytest.param(lambda patch: through_torch(patch, TORCH_GPU), id="torch"),
        pytest.param(lambda patch: through_torch(patch, TORCH_PINNED), id="torch, pinned"),
        pytest.param(lambda patch: through_torch(patch, TORCH_CUBLAS), id="torch, cuBLAS"),
        pytest.param(lambda patch: through_pycuda(patch, mem_alloc=_raise(PYCUDA)), id="pycuda"),
        pytest.param(lambda patch: through_pycuda(patch, pagelocked_empty=_raise(PYCUDA)), id="pycuda, pinned"),
    ],
)
def test_where_no_memory_is_left_for_a_buffer_it_is_one_line_with_the_page(
    monkeypatch: pytest.MonkeyPatch, exhausted: Callable[[pytest.MonkeyPatch], Cuda]
) -> None:
    cuda = exhausted(monkeypatch)
    with pytest.raises(UsageError, match=r"^the GPU is out of memory: .*docs/errors\.md#out-of-memory\)$"):
        cuda.buffer(1 << 40)


def test_another_fault_of_the_gpu_is_not_called_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = through_torch(monkeypatch, torch.cuda.AcceleratorError("CUDA error: unspecified launch failure"))
    with pytest.raises(torch.cuda.AcceleratorError, match="unspecified launch failure"):
        cuda.buffer(1)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["_bindings", "_torch", "_pycuda"])
def test_what_goes_up_comes_down_queued_and_replayed(gpu: Device, name: str) -> None:
    try:
        cuda = getattr(cuda_memory, name)()
    except (ModuleNotFoundError, NoGpuError) as error:
        pytest.skip(str(error))
    assert cuda.device == gpu
    buffer = cuda.buffer(4096)

    def there_and_back() -> None:
        cuda.upload(buffer, 4096)
        cuda.download(buffer, 4096)

    replay = cuda.capture(there_and_back) if cuda.captures else there_and_back
    for value in (3, 5):
        buffer.host[:] = value
        replay()
        cuda.synchronise()
        assert (buffer.host == value).all()
    cuda.close()
