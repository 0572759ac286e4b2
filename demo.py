"""`coronanet demo`: the whole way once, from the weights that ship to a served answer and what it costs."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.markup import escape

from .console import JsonOption, emit_json, err, out, warn
from .engines.bundle import Bundle, Precision
from .engines.doctor import VERBS, diagnose
from .engines.open import BACKENDS
from .engines.places import BundleProvider, data_home
from .engines.predictor import Choice
from .model.errors import UsageError
from .model.tasks import ENSEMBLE, TaskName
from .window_option import WINDOW, WindowCommand

if TYPE_CHECKING:
    from .benchmarks.report import EngineReport
    from .benchmarks.serving_report import ServingReport
    from .model.readers import Unreadable
    from .model.study import Study
    from .serving.predict import Outcome

#: The study that the demo takes where there is a data folder and nothing was given.
SAMPLE = Path("covid_ct_md_sample") / "P001.nii.gz"
ENGINES, SERVING, PAGE = "engines.json", "serving.json", "measurements.html"
STEPS = 5
CONCURRENCIES = (1, 2)
#: Short, because a demo is watched; `coronanet bench` takes its time.
ENGINE_REPEATS, ENGINE_SECONDS = 40, 2.0
REQUESTS, REQUEST_SECONDS = 60, 12.0
WARM_UP_CALLS, WARM_UP_SECONDS = 10, 0.5


@dataclass
class Steps:
    """Says which step begins, and keeps how many seconds each took."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str, what: str) -> Generator[None]:
        err.print(f"[bold]\\[{len(self.seconds) + 1}/{STEPS}][/bold] {escape(what)}", soft_wrap=True)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)


def register(app: typer.Typer) -> None:
    app.command("demo", cls=WindowCommand)(demo_verb)


def demo_verb(
    ctx: typer.Context,
    *,
    inputs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[INPUT...]",
            help="DICOM series, NIfTI, PNG or JPEG; none: a volume of the data folder, else the synthetic phantom.",
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(WINDOW, metavar="LOW HIGH | NAME", help="What black and white of 8-bit images mean, in HU."),
    ] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where the results go.")] = Path("out/demo"),
    bundles: Annotated[Path | None, typer.Option(help="Folder of the bundles; the user's cache unless given.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Export the weights that ship, serve them, send a study, and measure. Research use only."""
    verb = diagnose("demo", VERBS["demo"])
    if verb.remedy:
        raise UsageError(f"the demo needs {', '.join(verb.missing)}: {verb.remedy}")
    provide: BundleProvider = ctx.obj
    # Read before anything is exported: a typo must not cost a minute.
    studies = _studies(inputs or [], window)
    step = Steps()
    with step("export", "bundles: exported on first use, then opened with every hash checked"):
        opened = provide(bundles)
    with step("choose", "for each network the fastest engine that decides what torch decides"):
        choices = _choose(opened)
    outcome, serving = _serve(opened, choices, studies, folder, step, standard=bundles is None)
    with step("bench_engines", "every network on every engine, in turns"):
        engines = _bench_engines(opened)
    _finish(outcome, engines, serving, folder, step, as_json=as_json)


def _studies(inputs: Sequence[Path], window: str | None) -> "Iterator[Study | Unreadable]":
    """What the demo reads, the first that can be read already read, and what came before it.

    Raises:
        UsageError: none can be read.
    """
    from .model.phantom import make_phantom
    from .model.readers import Unreadable, try_inputs
    from .model.readers.windows import parse_window

    data = data_home(None)
    if not inputs and data is not None and (data / SAMPLE).is_file():
        inputs = [data / SAMPLE]
    if not inputs:
        err.print(
            "study: the SYNTHETIC PHANTOM, since no CT is at hand (`make demo DATA=path` takes your own)",
            soft_wrap=True,
        )
        return iter([make_phantom()])
    studies = try_inputs(inputs, window=None if window is None else parse_window(window))
    unreadable: list[Unreadable] = []
    for study in studies:
        if not isinstance(study, Unreadable):
            err.print(f"study: {escape(study.name)}, {len(study.image)} slices", soft_wrap=True)
            return chain(unreadable, [study], studies)
        unreadable.append(study)
    raise UsageError("; ".join(failure.reason for failure in unreadable))


def _choose(bundles: Mapping[TaskName, Bundle]) -> dict[TaskName, Choice]:
    from .engines.ranking import choose

    with err.status("measuring this machine, once") as status:
        return choose(bundles, progress=lambda name: status.update(f"measuring this machine, once: {name}"))


def _serve(
    bundles: Mapping[TaskName, Bundle],
    choices: Mapping[TaskName, Choice],
    studies: "Iterator[Study | Unreadable]",
    folder: Path,
    step: Steps,
    *,
    standard: bool,
) -> "tuple[Outcome, ServingReport]":
    """Fill the repository, start its server, and while it runs predict and measure."""
    from .serving.addresses import ANY_PORTS
    from .serving.repository import embedded_choices, fill_repository, repository_home
    from .serving.server import TritonServer

    repository = repository_home(None, standard=standard)
    fill_repository(bundles, repository, embedded_choices(bundles, choices))
    with TritonServer(repository, ports=ANY_PORTS) as server:
        with step("predict", f"the study to the ensemble on Triton, gRPC {server.address}"):
            outcome = _predict(server.address, studies, folder)
        with step("bench_serving", "the served ensemble beside the same chain in this process"):
            serving = _bench_serving(server.address, bundles, choices)
    return outcome, serving


def _predict(address: str, studies: "Iterator[Study | Unreadable]", folder: Path) -> "Outcome":
    from .serving.client import Client
    from .serving.predict import predict_studies
    from .serving.provenance import served_models

    with Client(address) as engine, err.status("asking the server") as status:

        def progress(name: str, done: int, total: int) -> None:
            status.update(f"{escape(name)}: slice {done} of {total}")

        return predict_studies(engine, studies, folder, models=served_models(engine), progress=progress)


def _bench_serving(
    address: str, bundles: Mapping[TaskName, Bundle], choices: Mapping[TaskName, Choice]
) -> "ServingReport":
    from .benchmarks.bench_serving import in_process_targets, measure_serving, served_targets
    from .benchmarks.inputs import phantom_slices
    from .benchmarks.load import LoadPlan
    from .benchmarks.timing import WarmUpRule
    from .engines.triton_engine import TritonEngine

    served = served_targets(address, lambda: TritonEngine(address), ENSEMBLE, CONCURRENCIES, batch=1)
    with err.status("measuring") as status:
        return measure_serving(
            [*served, *in_process_targets(bundles, choices, batch=1)],
            phantom_slices(),
            batch=1,
            bundles=bundles,
            plan=LoadPlan(REQUESTS, REQUEST_SECONDS),
            rule=WarmUpRule(most=WARM_UP_CALLS, limit_s=WARM_UP_SECONDS),
            advance=status.update,
        )


def _bench_engines(bundles: Mapping[TaskName, Bundle]) -> "EngineReport":
    from .benchmarks.bench_engines import measure_engines
    from .benchmarks.inputs import phantom_slices
    from .benchmarks.timing import Plan, WarmUpRule
    from .benchmarks.ways import all_ways
    from .engines.ranking import read_ranking

    precisions: tuple[Precision, ...] = get_args(Precision)
    with err.status("measuring") as status:
        return measure_engines(
            bundles,
            all_ways(BACKENDS, precisions, threads=None),
            [1],
            phantom_slices(),
            plan=Plan(ENGINE_REPEATS, ENGINE_SECONDS),
            rule=WarmUpRule(most=WARM_UP_CALLS, limit_s=WARM_UP_SECONDS),
            rankings={name: found for name, bundle in bundles.items() if (found := read_ranking(bundle))},
            advance=status.update,
        )


def _finish(
    outcome: "Outcome", engines: "EngineReport", serving: "ServingReport", folder: Path, step: Steps, *, as_json: bool
) -> None:
    """Write the reports, then say what came of it.

    Raises:
        UsageError: no study was finished.
        typer.Exit: some were not (code 1).
    """
    from .benchmarks.page.build import build_page
    from .benchmarks.report import write_text
    from .benchmarks.serving_tables import ratio_lines
    from .benchmarks.tables import machine_line, summary_table

    write_text(folder / ENGINES, engines.to_json())
    write_text(folder / SERVING, serving.to_json())
    write_text(folder / PAGE, build_page([engines, serving]))
    if not outcome.results:
        raise UsageError("; ".join(failure.reason for failure in outcome.failures))
    for failure in outcome.failures:
        warn(failure.reason)
    if as_json:
        emit_json(_to_json(outcome, folder, step))
    else:
        out.print(summary_table(engines, serving))
        for line in (*ratio_lines(serving), machine_line(engines), engines.notice):
            out.print(line, soft_wrap=True, markup=False)
        out.print(f"{folder / PAGE}: the measurements with charts", soft_wrap=True, markup=False)
        for result in outcome.results:
            note = " (SYNTHETIC PHANTOM)" if result.report.input.synthetic else ""
            out.print(f"{result.folder}{note}: {', '.join(result.report.files)}", soft_wrap=True, markup=False)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _to_json(outcome: "Outcome", folder: Path, step: Steps) -> dict[str, Any]:
    return {
        "results": [
            {"folder": str(result.folder), "synthetic": result.report.input.synthetic, "files": result.report.files}
            for result in outcome.results
        ],
        "failures": [failure.reason for failure in outcome.failures],
        "benchmarks": {"engines": str(folder / ENGINES), "serving": str(folder / SERVING), "page": str(folder / PAGE)},
        "seconds": step.seconds,
    }
