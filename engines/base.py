"""The one interface to a network that can be run."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from ..model.errors import UsageError

Tensors = Mapping[str, NDArray[Any]]
DYNAMIC = -1


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype and shape of a tensor; the first axis is the batch, ``DYNAMIC`` (-1) is any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        axes = ", ".join("?" if size == DYNAMIC else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} [{axes}]"


class Engine(Protocol):
    """A network, or one step of a chain, ready to run.

    ``infer`` is synchronous, takes exactly ``inputs`` and returns exactly ``outputs``; what it returns belongs to the
    caller. ``infer_each`` answers many feeds in their order, as they are asked for; an engine that can work on several
    at once does. An engine is used by one thread at a time.
    """

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def max_batch(self) -> int: ...

    def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]: ...
    def infer_each(self, feeds: Iterable[Tensors]) -> Iterator[dict[str, NDArray[Any]]]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class EngineBase:
    """What every engine shares: its specs, the check of its feeds, and the context manager."""

    def __init__(self, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], max_batch: int) -> None:
        self._inputs, self._outputs, self._max_batch = inputs, outputs, max_batch

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self._outputs

    @property
    def max_batch(self) -> int:
        return self._max_batch

    def infer_each(self: Engine, feeds: Iterable[Tensors]) -> Iterator[dict[str, NDArray[Any]]]:
        """One after the other."""
        return map(self.infer, feeds)

    def close(self) -> None:
        """Give back what the engine holds; an engine without resources of its own holds nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


def check_feeds(feeds: Tensors, inputs: tuple[TensorSpec, ...], max_batch: int) -> int:
    """The batch size of ``feeds``.

    Raises:
        UsageError: a tensor is missing, unknown, of another dtype or shape, or the batch is too large or uneven.
    """
    expected = {spec.name: spec for spec in inputs}
    if feeds.keys() != expected.keys():
        raise UsageError(f"expected the inputs {sorted(expected)}, got {sorted(feeds)}")
    batch = -1
    for name, spec in expected.items():
        array = feeds[name]
        if array.dtype != np.dtype(spec.dtype):
            raise UsageError(f"expected {spec}, got dtype {array.dtype}: convert it with .astype(np.{spec.dtype})")
        fits = array.ndim == len(spec.shape) and all(
            size > 0 if wanted == DYNAMIC else size == wanted
            for size, wanted in zip(array.shape, spec.shape, strict=True)
        )
        if not fits:
            raise UsageError(f"expected {spec}, got shape {list(array.shape)}")
        if batch not in (-1, array.shape[0]):
            raise UsageError(f"expected one batch size for all inputs, got {batch} and {array.shape[0]} ({name})")
        batch = array.shape[0]
    if batch > max_batch:
        raise UsageError(f"expected a batch of at most {max_batch}, got {batch}: send it in parts")
    return batch
