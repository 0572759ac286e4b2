"""The ways to run a network that are measured against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..engines.base import Engine
from ..engines.bundle import Bundle, Precision
from ..engines.open import BACKENDS, GPU_BACKENDS, PRECISIONS, Backend, open_engine
from ..engines.predictor import Choice


@dataclass(frozen=True)
class Way:
    """A choice of engine; ``graphs`` says whether a CUDA graph is replayed, None where the backend has none."""

    choice: Choice
    graphs: bool | None = None

    def __str__(self) -> str:
        return f"{self.choice}{' without CUDA graphs' if self.graphs is False else ''}"

    @property
    def on_gpu(self) -> bool:
        return self.choice.backend in GPU_BACKENDS

    def to_dict(self) -> dict[str, Any]:
        choice = self.choice
        return {
            "backend": choice.backend,
            "precision": choice.precision,
            "threads": choice.threads,
            "graphs": self.graphs,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Self:
        return cls(Choice(value["backend"], value["precision"], value["threads"]), value["graphs"])


def all_ways(backends: Sequence[Backend], precisions: Sequence[Precision], threads: int | None) -> list[Way]:
    """Every combination of the two that exists; on a GPU with CUDA graphs and without."""
    return [
        Way(Choice(backend, precision, threads), graphs)
        for backend in BACKENDS
        for precision in PRECISIONS[backend]
        if backend in backends and precision in precisions
        for graphs in ((True, False) if backend in GPU_BACKENDS else (None,))
    ]


def open_way(bundle: Bundle, way: Way) -> Engine:
    """The network of a bundle, ready to run in this way.

    Raises:
        CoronanetError: as `open_engine`.
    """
    choice = way.choice
    return open_engine(
        bundle,
        backend=choice.backend,
        precision=choice.precision,
        threads=choice.threads,
        graphs=way.graphs is not False,
    )
