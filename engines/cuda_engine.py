"""What every engine on the GPU shares: buffers on both sides, one stream, copies, and CUDA graphs."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.errors import UsageError
from .base import DYNAMIC, EngineBase, Tensors, TensorSpec, check_feeds
from .cuda_memory import Buffer, Cuda


@dataclass(frozen=True)
class StageTimes:
    """Nanoseconds of one call by stage, each with the wait for its end: copies in, kernels, copies out."""

    upload_ns: int
    compute_ns: int
    download_ns: int


class CudaEngine(EngineBase):
    """A network on the GPU with a stream and pinned buffers for the largest batch, all of its own.

    An engine of a kind says how a batch is queued on the stream (``_compute``), from and to the buffers.

    Args:
        cuda: the GPU; it belongs to the engine.
        graphs: whether copies and kernels of a batch size are captured on its first use and replayed afterwards.
    """

    def __init__(
        self,
        cuda: Cuda,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        max_batch: int,
        *,
        graphs: bool,
    ) -> None:
        super().__init__(inputs, outputs, max_batch)
        self._cuda = cuda
        self._buffers: Mapping[str, Buffer] = {}
        self._graphs: dict[int, Callable[[], None]] | None = {} if graphs and self._cuda.captures else None
        #: Of the kernels alone, for the clock.
        self._kernel_graphs: dict[int, Callable[[], None]] = {}

    @property
    def replays_graphs(self) -> bool:
        """Whether calls are replayed as CUDA graphs; what gives CUDA here may not be able to."""
        return self._graphs is not None

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
        batch = check_feeds(feeds, self.inputs, self.max_batch)
        self._fill(feeds, batch)
        self._run(batch)
        self._cuda.synchronise()
        # The buffers are used again, so the caller gets a copy.
        return {spec.name: self._view(spec, batch).copy() for spec in self.outputs}

    def time_stages(self, feeds: Tensors) -> StageTimes:
        """Run ``feeds`` once with a wait after every stage; the answer stays in the buffers.

        The kernels are a CUDA graph where the engine replays graphs. The three add up to more than one call takes, by
        the waits.

        Raises:
            UsageError: the feeds are not those of this engine, or CUDA failed.
        """
        batch = check_feeds(feeds, self.inputs, self.max_batch)
        self._fill(feeds, batch)
        stages = (lambda: self._upload(batch), self._kernels(batch), lambda: self._download(batch))
        self._cuda.synchronise()
        marks = [time.perf_counter_ns()]
        for stage in stages:
            stage()
            self._cuda.synchronise()
            marks.append(time.perf_counter_ns())
        return StageTimes(*(end - start for start, end in pairwise(marks)))

    def close(self) -> None:
        self._graphs = None
        self._kernel_graphs.clear()
        self._cuda.close()

    @abstractmethod
    def _compute(self, batch: int) -> None:
        """Queue the kernels of a batch on the stream."""

    def _can_capture(self) -> bool:
        """Whether what ``_compute`` queues can become a CUDA graph now, after a first run of this batch size."""
        return True

    def _allocate(self) -> None:
        """A buffer for every tensor; called once, by the engine of a kind, when it is ready for their addresses."""
        self._buffers = {
            spec.name: self._cuda.buffer(_size(spec, self.max_batch)) for spec in (*self.inputs, *self.outputs)
        }

    def _fill(self, feeds: Tensors, batch: int) -> None:
        for spec in self.inputs:
            np.copyto(self._view(spec, batch), feeds[spec.name])

    def _run(self, batch: int) -> None:
        replay = self._graphs.get(batch) if self._graphs is not None else None
        if replay is not None:
            replay()
            return
        self._queue(batch)
        # Captured only now: the first run after a change of shape sets up what a capture may not.
        if self._graphs is not None and self._can_capture():
            self._cuda.synchronise()
            self._graphs[batch] = self._cuda.capture(lambda: self._queue(batch))

    def _kernels(self, batch: int) -> Callable[[], None]:
        """What queues the kernels of a batch size that has run before, as calls of ``infer`` queue them."""
        if self._graphs is None or batch not in self._graphs:
            return lambda: self._compute(batch)
        if batch not in self._kernel_graphs:
            self._kernel_graphs[batch] = self._cuda.capture(lambda: self._compute(batch))
        return self._kernel_graphs[batch]

    def _queue(self, batch: int) -> None:
        """Copies in, kernels, copies out, all on the stream."""
        self._upload(batch)
        self._compute(batch)
        self._download(batch)

    def _upload(self, batch: int) -> None:
        self._copy(self._cuda.upload, self.inputs, batch)

    def _download(self, batch: int) -> None:
        self._copy(self._cuda.download, self.outputs, batch)

    def _copy(self, copy: Callable[[Buffer, int], None], specs: Iterable[TensorSpec], batch: int) -> None:
        for spec in specs:
            copy(self._buffers[spec.name], _size(spec, batch))

    def _view(self, spec: TensorSpec, batch: int) -> NDArray[Any]:
        return self._buffers[spec.name].view(spec.dtype, shape_of(spec, batch))


def shape_of(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    """The shape of a tensor for a batch.

    Raises:
        UsageError: another axis than the batch has no fixed size.
    """
    if DYNAMIC in spec.shape[1:]:
        raise UsageError(f"a GPU's buffers need fixed sizes but for the batch, got {spec}")
    return (batch, *spec.shape[1:])


def _size(spec: TensorSpec, batch: int) -> int:
    return int(np.prod(shape_of(spec, batch))) * np.dtype(spec.dtype).itemsize
