"""A GPU through whichever package is there."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from coronanet.engines import cuda_memory
from coronanet.engines.cuda_memory import Buffer, Device, NoGpuError, find_device, open_cuda
from coronanet.model.errors import MissingPackageError, UsageError


def _raise(error: Exception) -> Callable[[], Any]:
    def opener() -> Any:
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
