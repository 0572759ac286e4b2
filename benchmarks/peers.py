"""The same weights run by others' means, as their users would, measured in turns with our engines."""

import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..engines.base import Engine, EngineBase, Tensors, check_feeds
from ..engines.bundle import WEIGHTS, Bundle, FileRecord
from ..model.errors import MissingPackageError, UsageError

if TYPE_CHECKING:
    pass

Run = Callable[[Tensors], dict[str, NDArray[Any]]]
EXTRAS = {"torch": "train", "onnxruntime": "cpu", "openvino": "cpu"}
CUDA_PROVIDER = "CUDAExecutionProvider"
PURPOSE = "a peer of bench engines"


@dataclass(frozen=True)
class Peer:
    """One peer: ``open_engine`` raises with the reason where it cannot run here."""

    name: str
    description: str
    open_engine: Callable[[Bundle], Engine]


class PeerEngine(EngineBase):
    """A function that runs a network, behind the interface of our engines."""

    def __init__(self, record: FileRecord, run: Run) -> None:
        super().__init__(
            tuple(tensor.spec for tensor in record.inputs),
            tuple(tensor.spec for tensor in record.outputs),
            record.batch.max if record.batch else 1,
        )
        self._run = run

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        check_feeds(feeds, self.inputs, self.max_batch)
        return self._run(feeds)


def all_peers() -> tuple[Peer, ...]:
    """Everybody, whether they can run here or not."""
    return (
        Peer("torch eager", "torch, float32, as it comes", _torch),
        Peer("torch channels-last", "torch, float32, channels last", lambda bundle: _torch(bundle, last=True)),
        Peer(
            "torch bf16",
            "torch, weights and input in bfloat16, channels last",
            lambda bundle: _torch(bundle, last=True, kind="bfloat16"),
        ),
        Peer("torch.compile", "torch.compile (inductor), float32", lambda bundle: _torch(bundle, compiled=True)),
        Peer("onnxruntime defaults", "an InferenceSession of network.fp32.onnx, no options", _onnxruntime),
        Peer("openvino defaults", "compile_model(network.fp32.onnx, 'CPU'), no options", _openvino),
        Peer(
            "torch cuda fp16",
            "torch on the GPU, half precision, channels last, copies counted",
            lambda bundle: _torch(bundle, last=True, kind="float16", device="cuda"),
        ),
        Peer(
            "torch.compile cuda fp16",
            "torch.compile (inductor) on the GPU, half precision, channels last, copies counted",
            lambda bundle: _torch(bundle, last=True, kind="float16", device="cuda", compiled=True),
        ),
        Peer("onnxruntime cuda", "an InferenceSession on the CUDA provider, network.fp32.onnx", _onnxruntime_cuda),
    )


def _torch(
    bundle: Bundle, *, last: bool = False, kind: str = "float32", device: str = "cpu", compiled: bool = False
) -> Engine:
    """The card's network in torch; ``last``: channels last in memory."""
    _require("torch")
    import torch

    from ..model.networks import build
    from ..model.weights import load_network

    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"this torch ({torch.__version__}) finds no CUDA GPU")
    if compiled:
        _require_compiler(device)
    if not bundle.has_code:
        raise UsageError("the code of this network is not at hand")
    dtype: torch.dtype = getattr(torch, kind)
    module = load_network(bundle.card, bundle.path / WEIGHTS, bundle.builder or build).to(device, dtype)
    if last:
        module = module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    run: Callable[..., Any] = torch.compile(module) if compiled else module
    record = bundle.require("network")
    name, answer = record.inputs[0].name, record.outputs[0].name

    def infer(feeds: Tensors) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            pixels = torch.from_numpy(feeds[name]).to(device, dtype)
            if last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            return {answer: run(pixels).float().cpu().numpy()}

    return PeerEngine(record, infer)


def _require_compiler(device: str) -> None:
    """Inductor writes C++ for a CPU, and what starts its kernels for a GPU."""
    named = os.environ.get("CXX")
    if not any(shutil.which(name) for name in ((named,) if named else ("g++", "clang++", "c++"))):
        raise UsageError(f"torch.compile needs a C++ compiler ({named or 'g++ or clang++'}), which is not here")
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError("torch.compile on a GPU needs the Triton language: pip install triton")


def _onnxruntime(bundle: Bundle) -> Engine:
    _require("onnxruntime")
    import onnxruntime

    return _session(bundle, onnxruntime.InferenceSession(_file(bundle), providers=["CPUExecutionProvider"]))


def _onnxruntime_cuda(bundle: Bundle) -> Engine:
    _require("onnxruntime")
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise UsageError("this onnxruntime has no CUDA provider: pip install 'coronanet[gpu]' without the cpu extra")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(_file(bundle), options, providers=[CUDA_PROVIDER])
    # Without a GPU it falls back to the CPU and says nothing.
    if CUDA_PROVIDER not in session.get_providers():
        raise UsageError(
            "onnxruntime fell back to the CPU: its CUDA provider finds no GPU, or libraries of another CUDA"
        )
    return _session(bundle, session)


def _session(bundle: Bundle, session: Any) -> Engine:
    record = bundle.require("network")
    names = [tensor.name for tensor in record.outputs]
    return PeerEngine(record, lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True)))


def _openvino(bundle: Bundle) -> Engine:
    _require("openvino")
    compiled = _openvino_core().compile_model(_file(bundle), "CPU")
    record = bundle.require("network")
    answer = record.outputs[0].name
    return PeerEngine(record, lambda feeds: {answer: compiled(dict(feeds))[0]})


@cache
def _openvino_core() -> Any:
    """One that stays, as in `engines.openvino_engine`."""
    import openvino

    return openvino.Core()


def _file(bundle: Bundle) -> Path:
    return bundle.file(bundle.require("network"))


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(package, purpose=PURPOSE, extra=EXTRAS[package])
