"""What `bench study` leaves behind: every run of a whole study, and the engine alone measured between them."""

import statistics
from typing import Annotated, Literal

from pydantic import Field

from ..model.card import StrictModel
from .report import Report


class StudyCase(StrictModel):
    """A study and how its networks ran; ``engines`` by task, ``batch`` slices a call, ``streams`` calls at once."""

    kind: Literal["study"] = "study"
    source: str
    slices: Annotated[int, Field(ge=1)]
    rows: int
    columns: int
    batch: Annotated[int, Field(ge=1)]
    streams: int
    engines: dict[str, str]

    def __str__(self) -> str:
        return f"{self.slices} slices of {self.rows} x {self.columns}"


class EngineBlock(StrictModel):
    """The ensemble alone on slices that are in memory: nothing read, nothing written."""

    slices: int
    wall_s: float

    @property
    def slices_per_s(self) -> float:
        return self.slices / self.wall_s


class StudyRun(StrictModel):
    """One `coronanet predict` in a process of its own.

    Attributes:
        elapsed_s: from the first look at the input to the finished folder; the networks were open.
        loading_s: what opening them took.
        time_to_report_s: from the start of the process to its end.
        stages_s: how long each stage was at work; they overlap.
        cpu_s: of all its threads, from start to end.
        peak_memory_bytes: the most that was resident.
    """

    elapsed_s: float
    loading_s: float
    time_to_report_s: float
    stages_s: dict[str, float]
    cpu_s: float
    peak_memory_bytes: int


class StudyReport(Report):
    """What `bench study` measured.

    Attributes:
        blocks: the engine alone: before the first run and behind each.
        runs: the study.
        engine_parts_ms: of the time that one slice takes alone on all cores, what goes into preprocessing, into the
            networks and into their decisions.
        file_bytes, file_read_s: the input, and how long it takes to read its bytes alone, from the cache.
        slices_per_s: of a whole study, the median of the runs.
        engine_slices_per_s: of the engine alone, the median of the blocks.
        ratio: each run's throughput over that of the blocks beside it, the median.
    """

    case: StudyCase
    protocol_sha256: str
    blocks: tuple[EngineBlock, ...]
    runs: tuple[StudyRun, ...]
    engine_parts_ms: dict[str, float]
    file_bytes: int
    file_read_s: float
    slices_per_s: float
    engine_slices_per_s: float
    ratio: float


def summarise(case: StudyCase, blocks: tuple[EngineBlock, ...], runs: tuple[StudyRun, ...]) -> dict[str, float]:
    """The figures that follow from the samples, by their names in `StudyReport`."""
    ratios = [
        case.slices / run.elapsed_s / statistics.mean((before.slices_per_s, after.slices_per_s))
        for run, before, after in zip(runs, blocks[:-1], blocks[1:], strict=True)
    ]
    return {
        "slices_per_s": statistics.median(case.slices / run.elapsed_s for run in runs),
        "engine_slices_per_s": statistics.median(block.slices_per_s for block in blocks),
        "ratio": statistics.median(ratios),
    }
