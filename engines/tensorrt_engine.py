"""A TensorRT plan on the GPU."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.errors import RefusedError, UsageError
from .base import DYNAMIC, EngineBase, Tensors, TensorSpec, check_feeds
from .bundle import Bundle, PlanTarget, Precision
from .cuda_memory import Buffer, Cuda, open_cuda
from .plans import choose_plan, find_hosts, require_plans
from .proofs import refuse_unproved
from .tensorrt_errors import failure, refusal
from .tensorrt_runtime import TensorRT, load_runtime


@dataclass(frozen=True)
class StageTimes:
    """Nanoseconds of one call by stage, each with the wait for its end: copies in, kernels, copies out."""

    upload_ns: int
    compute_ns: int
    download_ns: int


def open_tensorrt(
    bundle: Bundle, precision: Precision, *, unproved: bool = False, graphs: bool = True
) -> "TensorRtEngine":
    """The network of a bundle as the plan that was made for this machine.

    Args:
        unproved: whether to open a plan that has never run too, as `coronanet verify` must.
        graphs: whether to replay a CUDA graph for each batch size.

    Raises:
        UsageError: the bundle has no plan for this machine, or no GPU can be used.
        RefusedError: the plan has not been proved, or cannot be loaded.
    """
    require_plans(bundle, precision)
    record, host = choose_plan(bundle, precision, find_hosts())
    if not unproved:
        refuse_unproved(bundle, record, host)
    assert record.target is not None
    weights = None
    if record.target.weight_stripped:
        source = bundle.require("network", precision)
        if source.sha256 != record.target.onnx_sha256:
            raise RefusedError(
                f"{bundle.file(record)} has no weights and was not built from {source.path}: export again"
            )
        weights = bundle.file(source)
    return TensorRtEngine(
        bundle.file(record),
        tuple(tensor.spec for tensor in record.inputs),
        tuple(tensor.spec for tensor in record.outputs),
        record.batch.max if record.batch else 1,
        target=record.target,
        weights=weights,
        graphs=graphs,
    )


class TensorRtEngine(EngineBase):
    """A plan with an execution context, a stream and pinned buffers for the largest batch, all of its own.

    Args:
        path: the plan.
        target: what it was built for, and so which runtime loads it.
        weights: the ONNX file that a weight-stripped plan takes its weights from.
        graphs: whether copies and kernels of a batch size are captured on its first use and replayed afterwards.

    Raises:
        UsageError: no GPU, no memory, or the runtime is missing.
        RefusedError: the plan cannot be loaded here, or its tensors are not those of the manifest.
    """

    def __init__(
        self,
        path: Path,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int,
        *,
        target: PlanTarget,
        weights: Path | None = None,
        graphs: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, max_batch)
        self._runtime = load_runtime(target.runtime)
        self._cuda: Cuda = open_cuda()
        try:
            self._engine = load_plan(self._runtime, path, target, weights)
            _check_tensors(self._runtime, self._engine, path, (*inputs, *outputs))
            self._context: Any = self._engine.create_execution_context()
            if self._context is None:
                raise failure(f"cannot run {path.name}", self._runtime.messages)
            self._buffers = self._bind()
        except BaseException:
            self._cuda.close()
            raise
        self._graphs: dict[int, Callable[[], None]] | None = {} if graphs and self._cuda.captures else None

    @property
    def replays_graphs(self) -> bool:
        """Whether calls are replayed as CUDA graphs; what gives CUDA here may not be able to."""
        return self._graphs is not None

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        batch = check_feeds(feeds, self.inputs, self.max_batch)
        for spec in self.inputs:
            np.copyto(self._view(spec, batch), feeds[spec.name])
        self._run(batch)
        self._cuda.synchronise()
        # The buffers are used again, so the caller gets a copy.
        return {spec.name: self._view(spec, batch).copy() for spec in self.outputs}

    def time_stages(self, feeds: Tensors) -> StageTimes:
        """Run ``feeds`` once with a wait after every stage; no CUDA graph, and the answer stays in the buffers.

        The three add up to more than one call takes, by the waits.

        Raises:
            UsageError: the feeds are not those of this engine, or CUDA failed.
        """
        batch = check_feeds(feeds, self.inputs, self.max_batch)
        for spec in self.inputs:
            np.copyto(self._view(spec, batch), feeds[spec.name])
        self._cuda.synchronise()
        marks = [time.perf_counter_ns()]
        for stage in (self._upload, self._compute, self._download):
            stage(batch)
            self._cuda.synchronise()
            marks.append(time.perf_counter_ns())
        return StageTimes(*(end - start for start, end in pairwise(marks)))

    def close(self) -> None:
        self._graphs = None
        self._context = self._engine = None
        self._cuda.close()

    def _run(self, batch: int) -> None:
        replay = self._graphs.get(batch) if self._graphs is not None else None
        if replay is not None:
            replay()
            return
        self._queue(batch)
        # Captured only now: the first run after a change of shape sets up what a capture may not.
        if self._graphs is not None and self._runtime.can_capture(self._context, self._cuda.stream):
            self._cuda.synchronise()
            self._graphs[batch] = self._cuda.capture(lambda: self._queue(batch))

    def _queue(self, batch: int) -> None:
        """Copies in, kernels, copies out, all on the stream."""
        self._upload(batch)
        self._compute(batch)
        self._download(batch)

    def _upload(self, batch: int) -> None:
        for spec in self.inputs:
            self._context.set_input_shape(spec.name, _shape(spec, batch))
            self._cuda.upload(self._buffers[spec.name], _size(spec, batch))

    def _compute(self, batch: int) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise failure(f"TensorRT cannot run this batch of {batch}", self._runtime.messages)

    def _download(self, batch: int) -> None:
        for spec in self.outputs:
            self._cuda.download(self._buffers[spec.name], _size(spec, batch))

    def _bind(self) -> Mapping[str, Buffer]:
        buffers: dict[str, Buffer] = {}
        for spec in (*self.inputs, *self.outputs):
            buffers[spec.name] = self._cuda.buffer(_size(spec, self.max_batch))
            self._context.set_tensor_address(spec.name, buffers[spec.name].address)
        return buffers

    def _view(self, spec: TensorSpec, batch: int) -> NDArray[Any]:
        return self._buffers[spec.name].view(spec.dtype, _shape(spec, batch))


def load_plan(runtime: TensorRT, path: Path, target: PlanTarget, weights: Path | None) -> Any:
    """A plan as an engine of its runtime; ``weights`` is the ONNX file of a weight-stripped one.

    Raises:
        RefusedError: it cannot be loaded here, with the library's reason.
    """
    runtime.messages.clear()
    loader = runtime.api.Runtime(runtime.log)
    if target.version_compatible:
        # Such a plan carries the code of the runtime that it was built with; the bundle's hashes were checked.
        loader.engine_host_code_allowed = True
    engine = loader.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise refusal(f"cannot load {path}", runtime.messages)
    if weights is not None:
        refitter = runtime.api.Refitter(engine, runtime.log)
        parser = runtime.api.OnnxParserRefitter(refitter, runtime.log)
        if not parser.refit_from_file(str(weights)) or not refitter.refit_cuda_engine():
            raise refusal(f"cannot give {path} the weights of {weights.name}", runtime.messages)
    return engine


def _check_tensors(runtime: TensorRT, engine: Any, path: Path, specs: tuple[TensorSpec, ...]) -> None:
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    if names != {spec.name for spec in specs}:
        raise RefusedError(f"{path} has the tensors {sorted(names)}, its manifest {[spec.name for spec in specs]}")
    for spec in specs:
        found = np.dtype(runtime.api.nptype(engine.get_tensor_dtype(spec.name)))
        if found != np.dtype(spec.dtype) or tuple(engine.get_tensor_shape(spec.name)) != spec.shape:
            shape = list(engine.get_tensor_shape(spec.name))
            raise RefusedError(f"{path}: expected {spec}, found {found} {shape}", page="corrupted-file")


def _shape(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    if DYNAMIC in spec.shape[1:]:
        raise UsageError(f"a plan needs fixed sizes but for the batch, got {spec}")
    return (batch, *spec.shape[1:])


def _size(spec: TensorSpec, batch: int) -> int:
    return int(np.prod(_shape(spec, batch))) * np.dtype(spec.dtype).itemsize
