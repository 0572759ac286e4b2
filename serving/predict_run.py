"""What `coronanet predict` does once its options are understood."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ..console import emit_json, err, fail, out, warn
from ..engines.base import Engine
from ..engines.machine import peak_memory_bytes
from ..engines.places import BundleProvider
from ..engines.predictor import Choice
from ..model.errors import UsageError
from ..model.readers import Reading, Unreadable, open_inputs
from ..model.severity import SURROGATE_NOTE
from ..model.study import Arriving
from ..model.tasks import TASK_NAMES
from .overlay import DISCLAIMER
from .predict import Outcome, local_models, predict_studies
from .report import ModelRecord
from .result import Extras
from .triage import RULE, TriageRow, check_triage_replaceable, count_bands, triage, write_triage

if TYPE_CHECKING:
    from ..engines.keys import PublicKey
    from ..engines.triton_connection import Connection

#: An ensemble that is ready, and what reports say about its networks.
Ensemble = tuple[Engine, tuple[ModelRecord, ...]]


@contextmanager
def served_ensemble(connection: "Connection", timeout_s: float) -> Generator[Ensemble]:
    # Here, because the client of Triton is an extra.
    from .client import Client
    from .provenance import served_models

    with Client(connection, timeout_s=timeout_s) as client:
        yield client, served_models(client)


@contextmanager
def local_ensemble(
    provide: BundleProvider, folder: Path | None, choice: Choice | None, key: "PublicKey | None"
) -> Generator[Ensemble]:
    from ..engines.ranking import choose
    from ..engines.streams import open_ensemble

    bundles = provide(folder, key=key)
    if choice is None:
        with err.status("measuring this machine") as status:
            choices = choose(bundles, progress=lambda name: status.update(f"measuring this machine: {name}"))
    else:
        choices = dict.fromkeys(TASK_NAMES, choice)
    with open_ensemble(bundles, choices) as engine:
        yield engine, local_models(bundles, choices)


@dataclass(frozen=True)
class Delivery:
    """What a PACS took of the results, by name, and in one line why not all of it, empty where it took all."""

    stored: tuple[str, ...]
    error: str = ""


def predict_and_answer(
    ensemble: AbstractContextManager[Ensemble],
    inputs: list[Path],
    reading: Reading,
    folder: Path,
    *,
    extras: Extras,
    deliver: Callable[[Outcome], Delivery] | None = None,
    as_json: bool,
) -> None:
    """Open the ensemble, run every input through it, write the results, deliver them, and say what came of it.

    Raises:
        UsageError: no input was finished.
        typer.Exit: some were not, or were not delivered (code 1).
    """
    # The first study is opened before anything is exported, measured or asked: a typo must not cost a minute.
    studies = open_inputs(inputs, reading)
    unreadable: list[Unreadable] = []
    first: list[Arriving] = []
    for found in studies:
        if not isinstance(found, Unreadable):
            first.append(found)
            break
        unreadable.append(found)
    else:
        raise _nothing_finished(unreadable)
    del found
    check_triage_replaceable(folder)
    start = time.perf_counter()
    with ensemble as (engine, models):
        loading_s = time.perf_counter() - start
        outcome = _run(engine, models, chain(unreadable, _handed_over(first), studies), folder, extras)
    if not outcome.results:
        raise _nothing_finished(outcome.failures)
    rows = triage(outcome)
    write_triage(folder, rows)
    delivery = deliver(outcome) if deliver else None
    _warn_unused(outcome, reading, extras)
    _answer(outcome, rows, delivery, loading_s, as_json=as_json)


def _handed_over(studies: list[Arriving]) -> Iterator[Arriving]:
    """Each study once, so that nobody here holds it while the next is read."""
    while studies:
        yield studies.pop(0)


def _nothing_finished(failures: Sequence[Unreadable]) -> UsageError:
    """The first reason, and how many more there are: a folder of images fails thirty times for one reason."""
    first, *more = (failure.reason.replace(failure.origin, "") for failure in failures)
    alike = more.count(first)
    other = len(more) - alike
    parts = [f"{alike} more like it"] * bool(alike)
    parts += [f"{other} more input{'' if other == 1 else 's'} that could not be read"] * bool(other)
    return UsageError(failures[0].reason + (f" (and {' and '.join(parts)})" if parts else ""))


def _run(
    engine: Engine,
    models: tuple[ModelRecord, ...],
    studies: Iterable[Arriving | Unreadable],
    folder: Path,
    extras: Extras,
) -> Outcome:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        line = bar.add_task("reading", total=None)

        def progress(name: str, done: int, total: int) -> None:
            bar.update(line, description=escape(name), completed=done, total=total)

        return predict_studies(engine, studies, folder, models=models, extras=extras, progress=progress)


def _warn_unused(outcome: Outcome, reading: Reading, extras: Extras) -> None:
    """An option that no input, or not every one, could use."""
    kinds = [result.report.input.kind for result in outcome.results]
    if reading.window is not None and "image" not in kinds:
        warn("--window is for 8-bit images; these inputs carry Hounsfield units, so it was not used")
    given = ((extras.dicom, "--dicom"), (extras.identify, "--identify"), (reading.series is not None, "--series"))
    for option in (name for used, name in given if used):
        if (others := len(kinds) - kinds.count("dicom")) > 0:
            warn(f"{option} is for DICOM; {others} of {len(kinds)} inputs are not, so it was not used on them")


def _answer(
    outcome: Outcome, rows: Sequence[TriageRow], delivery: Delivery | None, loading_s: float, *, as_json: bool
) -> None:
    for result in outcome.results:
        # An image's note is the window that the user just gave.
        for note in () if result.report.input.kind == "image" else result.report.input.notes:
            err.print(f"{result.report.input.name}: {note}", soft_wrap=True, markup=False)
    for failure in outcome.failures:
        err.print(f"failed: {failure.reason}", style="red", soft_wrap=True, markup=False)
    if as_json:
        emit_json(
            _to_json(outcome, rows, delivery) | {"loading_s": loading_s, "peak_memory_bytes": peak_memory_bytes()}
        )
    else:
        out.print(_studies(outcome, rows))
        out.print(_bands(rows))
        out.print(f"{RULE}.", soft_wrap=True, markup=False)
        out.print(f"{SURROGATE_NOTE}.", soft_wrap=True, markup=False)
        out.print(DISCLAIMER)
    if delivery and delivery.stored:
        err.print(f"stored in the PACS: {', '.join(delivery.stored)}", soft_wrap=True, markup=False)
    if delivery and delivery.error:
        fail(delivery.error)
    if code := _exit_code(outcome, delivery):
        raise typer.Exit(code)


def _exit_code(outcome: Outcome, delivery: Delivery | None) -> int:
    return outcome.exit_code or (1 if delivery and delivery.error else 0)


def _to_json(outcome: Outcome, rows: Sequence[TriageRow], delivery: Delivery | None) -> dict[str, Any]:
    return {
        "disclaimer": DISCLAIMER,
        "results": [
            {
                "folder": str(result.folder),
                "report": asdict(result.report),
                "elapsed_s": result.elapsed_s,
                "stages_s": dict(result.stages_s),
            }
            for result in outcome.results
        ],
        "failures": [asdict(failure) for failure in outcome.failures],
        "triage": {
            "rule": RULE,
            "rows": [asdict(row) for row in rows],
            "bands": [asdict(band) for band in count_bands(rows)],
        },
        "pacs": None if delivery is None else asdict(delivery),
        "exit_code": _exit_code(outcome, delivery),
    }


def _studies(outcome: Outcome, rows: Sequence[TriageRow]) -> Table:
    """The studies in the order of triage."""
    results = {result.folder.name: result for result in outcome.results}
    table = Table(
        "", "study", "severity", "surrogate CT score", "effusion", "lung involved", "infected", "read with care",
        "results in",
    )  # fmt: skip
    for row in rows:
        if row.rank is None:
            continue
        result = results[row.study]
        report, score = result.report, row.surrogate_ct_severity_score
        table.add_row(
            str(row.rank),
            Text(report.input.name + (" (SYNTHETIC PHANTOM)" if report.input.synthetic else "")),
            row.severity_band,
            "-" if score is None else f"{score} of 25",
            "-" if row.pleural_effusion_ml is None else f"{row.pleural_effusion_ml:.0f} ml",
            "no lung" if row.percent_of_lung_involved is None else f"{row.percent_of_lung_involved:.1f} %",
            f"{row.highest_infected_probability:.2f}",
            ", ".join(dict.fromkeys(flag.name for flag in report.quality)),
            Text(str(result.folder), overflow="fold"),
        )
    return table


def _bands(rows: Sequence[TriageRow]) -> Table:
    """What whoever allots beds counts, beside what is published on each band."""
    table = Table("severity", "surrogate CT score", "studies", "published on this band")
    for band in count_bands(rows):
        table.add_row(band.band, band.surrogate_scores, str(band.studies), band.published)
    return table
