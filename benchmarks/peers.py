"""The same weights run by others' means, as their users would, measured in turns with our engines."""

import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from ..engines.base import Engine, EngineBase, Tensors, check_feeds
from ..engines.bundle import WEIGHTS, Bundle, FileRecord, Precision
from ..engines.cuda_engine import StageTimes
from ..model.errors import MissingPackageError, UsageError
from .ways import Way

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
    device: Literal["cpu", "gpu"] = "cpu"

    def __str__(self) -> str:
        return self.name


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


def peers_beside(ways: Iterable[Way], names: Sequence[str] = ()) -> tuple[Peer, ...]:
    """The peers on the devices that the ways run on, GPU and CPU; ``names`` picks some of all, in their order.

    Raises:
        UsageError: no peer has such a name.
    """
    known = {peer.name: peer for peer in all_peers()}
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"no peer '{unknown[0]}': expected one of {', '.join(known)}")
    if names:
        return tuple(peer for name, peer in known.items() if name in names)
    devices = {"gpu" if way.on_gpu else "cpu" for way in ways}
    return tuple(peer for peer in known.values() if peer.device in devices)


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
        Peer("torch cuda", "torch on the GPU, float32, as it comes", _torch_cuda, "gpu"),
        Peer(
            "torch cuda fp16",
            "torch on the GPU, half precision, channels last",
            lambda bundle: _torch_cuda(bundle, kind="float16"),
            "gpu",
        ),
        Peer(
            "torch cuda fp16 graph",
            "torch on the GPU, half precision, channels last, replayed as a CUDA graph",
            lambda bundle: _torch_cuda(bundle, kind="float16", how="graph"),
            "gpu",
        ),
        Peer(
            "torch.compile cuda fp16",
            "torch.compile (inductor) on the GPU, half precision, channels last",
            lambda bundle: _torch_cuda(bundle, kind="float16", how="compile"),
            "gpu",
        ),
        Peer(
            "onnxruntime cuda",
            "an InferenceSession of network.fp32.onnx on the CUDA provider, no options",
            lambda bundle: _onnxruntime_cuda(bundle, "fp32"),
            "gpu",
        ),
        Peer(
            "onnxruntime cuda fp16",
            "an InferenceSession of network.fp16.onnx on the CUDA provider, no options",
            lambda bundle: _onnxruntime_cuda(bundle, "fp16"),
            "gpu",
        ),
    )


def _torch(bundle: Bundle, *, last: bool = False, kind: str = "float32", compiled: bool = False) -> Engine:
    """The card's network in torch on the CPU; ``last``: channels last in memory."""
    _require("torch")
    import torch

    if compiled:
        _require_compiler("cpu")
    dtype: torch.dtype = getattr(torch, kind)
    module = _load(bundle).to(dtype)
    if last:
        module = module.to(memory_format=torch.channels_last)
    run: Callable[..., Any] = torch.compile(module) if compiled else module
    record = bundle.require("network")
    name, answer = record.inputs[0].name, record.outputs[0].name

    def infer(feeds: Tensors) -> dict[str, NDArray[Any]]:
        with torch.inference_mode():
            pixels = torch.from_numpy(feeds[name]).to(dtype)
            if last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            return {answer: run(pixels).float().numpy()}

    return PeerEngine(record, infer)


def _load(bundle: Bundle) -> Any:
    """The card's network as a torch module with its weights."""
    from ..model.networks import build
    from ..model.weights import load_network

    if not bundle.has_code:
        raise UsageError("the code of this network is not at hand")
    return load_network(bundle.card, bundle.path / WEIGHTS, bundle.builder or build)


class TorchCudaPeer(PeerEngine):
    """Torch on the GPU: a copy up, the network, a copy down, as a user writes them, and the same with waits between."""

    def __init__(
        self, record: FileRecord, upload: Callable[[Any], Any], network: Callable[[Any], Any], wait: Callable[[], None]
    ) -> None:
        super().__init__(record, self._call)
        self._name, self._answer = record.inputs[0].name, record.outputs[0].name
        self._upload, self._network, self._wait = upload, network, wait

    def time_stages(self, feeds: Tensors) -> StageTimes:
        self._wait()
        marks = [time.perf_counter_ns()]
        value: Any = feeds[self._name]
        for stage in (self._upload, self._network, _download):
            value = stage(value)
            self._wait()
            marks.append(time.perf_counter_ns())
        return StageTimes(*(end - start for start, end in pairwise(marks)))

    def _call(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        return {self._answer: _download(self._network(self._upload(feeds[self._name])))}


def _download(logits: Any) -> NDArray[Any]:
    return logits.float().cpu().numpy()


def _torch_cuda(
    bundle: Bundle, *, kind: str = "float32", how: Literal["eager", "graph", "compile"] = "eager"
) -> Engine:
    """The card's network in torch on the GPU; in half precision with the channels last in memory."""
    _require("torch")
    import torch

    if not torch.cuda.is_available():
        raise UsageError(f"this torch ({torch.__version__}) finds no CUDA GPU")
    if how == "compile":
        _require_compiler("cuda")
    dtype: torch.dtype = getattr(torch, kind)
    layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
    module = _load(bundle).to("cuda", dtype, memory_format=layout)
    run: Callable[[Any], Any] = torch.compile(module, dynamic=False) if how == "compile" else module
    graphs: dict[int, tuple[Any, Any, Any]] = {}

    def upload(pixels: NDArray[Any]) -> Any:
        return torch.from_numpy(pixels).to("cuda").to(dtype, memory_format=layout)

    def replay(pixels: Any) -> Any:
        if len(pixels) not in graphs:
            graphs[len(pixels)] = _capture(module, pixels)
        graph, given, taken = graphs[len(pixels)]
        given.copy_(pixels)
        graph.replay()
        return taken

    def network(pixels: Any) -> Any:
        with torch.inference_mode():
            return replay(pixels) if how == "graph" else run(pixels)

    return TorchCudaPeer(bundle.require("network"), upload, network, torch.cuda.synchronize)


def _capture(module: Any, pixels: Any) -> tuple[Any, Any, Any]:
    """A CUDA graph of a batch size, and the tensors that it reads and writes; warmed up as torch's manual has it."""
    import torch

    given = pixels.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            module(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        taken = module(given)
    return graph, given, taken


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


def _onnxruntime_cuda(bundle: Bundle, precision: Precision) -> Engine:
    _require("onnxruntime")
    import onnxruntime

    from ..engines.onnxruntime_cuda_engine import load_libraries

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise UsageError("this onnxruntime has no CUDA provider: pip install 'coronanet[gpu]' without the cpu extra")
    load_libraries()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(_file(bundle, precision), options, providers=[CUDA_PROVIDER])
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


def _file(bundle: Bundle, precision: Precision = "fp32") -> Path:
    return bundle.file(bundle.require("network", precision))


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(package, purpose=PURPOSE, extra=EXTRAS[package])
