"""`coronanet bench engines`: the networks alone, in every way that this machine runs them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from ..console import JsonOption, fail, out, warn
from ..engines.bundle import Bundle, Precision
from ..engines.open import BACKENDS
from ..engines.predictor import Choice
from ..model.errors import RefusedError, UsageError
from ..model.tasks import TASK_NAMES, TaskName
from .compare_cli import VaryOption
from .options import FAILED, BundlesOption, OutOption, footer, names, numbers, progress_bar, provide, publish

if TYPE_CHECKING:
    from .bench_engines import Extras
    from .protocol import EngineCase, PeerCase
    from .report import EngineReport
    from .timing import Plan, WarmUpRule
    from .ways import Way

PRECISION_NAMES: tuple[Precision, ...] = get_args(Precision)
UP = "up"


@dataclass(frozen=True)
class _Asked:
    """What is to be measured; ``batches`` None is as far up as graph and memory go."""

    bundles: dict[TaskName, Bundle]
    ways: "list[Way]"
    batches: list[int] | None
    plan: "Plan"
    rule: "WarmUpRule"
    extras: "Extras"

    def has(self, case: "EngineCase | PeerCase") -> bool:
        """Whether a case of an earlier report is among it."""
        from .protocol import PeerCase
        from .trtexec import TRTEXEC

        if case.task not in self.bundles or (self.batches is not None and case.batch not in self.batches):
            return False
        if not isinstance(case, PeerCase):
            return Choice(case.backend, case.precision, case.threads) in {way.choice for way in self.ways}
        peers = {peer.name for peer in self.extras.peers}
        return case.peer in peers or (case.peer == TRTEXEC.name and bool(peers))


def engines(
    ctx: typer.Context,
    *,
    bundles: BundlesOption = None,
    task: Annotated[str, typer.Option(help="Tasks, comma-separated.", show_default="all")] = ",".join(TASK_NAMES),
    backend: Annotated[str, typer.Option(help="Backends, comma-separated.", show_default="all")] = ",".join(BACKENDS),
    precision: Annotated[str, typer.Option(help="Precisions, comma-separated.", show_default="all")] = ",".join(
        PRECISION_NAMES
    ),
    batch: Annotated[
        str, typer.Option(help=f"Batch sizes, comma-separated; '{UP}': 1, 2, 4 … as far as graph and memory go.")
    ] = "1",
    repeats: Annotated[int, typer.Option(min=1, help="Counted calls of each engine.")] = 100,
    max_seconds: Annotated[
        float,
        typer.Option(
            min=0.1,
            help="About the longest that the calls take, for each task and batch size; longer where ways are too slow "
            "for the four rounds that tell their noise.",
        ),
    ] = 30.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of one inference; each backend's own choice unless given.")
    ] = None,
    fresh: Annotated[
        bool,
        typer.Option(help="Load time, first inference and peak memory of each, in processes of their own."),
    ] = True,
    roofline: Annotated[
        bool, typer.Option(help="The machine's ceilings, and how far each network is from them.")
    ] = True,
    peers: Annotated[
        bool, typer.Option("--peers", help="The same weights by other means, in the same turns: torch, defaults.")
    ] = False,
    peer: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="One peer alone, such as 'torch bf16'; again for more.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLES", help="Compare with the bundles of another folder, in the same turns."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="An earlier report; exit code 1 where something is slower than there, or gone."
        ),
    ] = None,
    vary: VaryOption = None,
    out_file: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the networks alone: every backend x precision x batch that this machine runs, in turns.

    The input is the synthetic phantom at 512 x 512 through the bundle's own preprocessing. With --baseline both runs
    are divided by a yardstick that was measured in the same turns, so that the machine's own changes do not count.
    """
    from .bench_engines import Extras
    from .noise import LEAST_ROUNDS
    from .peers import peers_beside
    from .report import read_engines
    from .tables import comparisons_table, details_table, engine_notes, engines_table, gpu_table, peers_table
    from .timing import Plan, WarmUpRule
    from .ways import all_ways

    ways = all_ways(names("--backend", backend, BACKENDS), names("--precision", precision, PRECISION_NAMES), threads)
    if against is not None and (baseline is not None or peers or peer or batch == UP):
        raise UsageError(
            f"--against compares two folders of bundles: leave --baseline, --peers, --peer and --batch {UP} out"
        )
    batches = None if batch == UP else numbers("--batch", batch)
    # Before the bundles, whose first export takes minutes: a typo must not cost that.
    extras = Extras(fresh=fresh, roofline=roofline, peers=peers_beside(ways, peer or ()) if peers or peer else ())
    asked = _Asked(
        bundles=_provide(ctx, bundles, names("--task", task, TASK_NAMES)),
        ways=ways,
        batches=batches,
        plan=Plan(repeats, max_seconds, least_rounds=LEAST_ROUNDS),
        rule=WarmUpRule(limit_s=min(5.0, max_seconds / max(1, len(ways)))),
        extras=extras,
    )
    known = read_engines(baseline) if baseline is not None else None
    if against is not None:
        report = _measure_against(ctx, asked, against)
    else:
        report = _measure(asked, out_file, known, vary or ())
    failure = _guard(asked, report, known, baseline) if known is not None and baseline is not None else None
    publish(report, out_file, as_json, failure)
    for note in engine_notes(report):
        warn(note)
    if not as_json:
        out.print(engines_table(report))
        if any(result.fresh or result.roofline for result in report.results):
            out.print(details_table(report))
        if any(result.stages for result in report.results):
            out.print(gpu_table(report))
        if report.peers:
            out.print(peers_table(report))
        if report.comparisons:
            out.print(comparisons_table(report.comparisons))
        footer(report, out_file)
    if failure:
        # Not raised as an error: with --json that would print a second object.
        fail(failure)
        raise typer.Exit(FAILED)


def _guard(asked: _Asked, report: "EngineReport", known: "EngineReport", baseline: Path) -> str | None:
    """Why a guard says no: a way is slower than in ``baseline`` or gone, or too few rounds say nothing about it."""
    from .compare import why_missing
    from .tables import unjudged_lines

    slower = [str(each.case) for each in report.comparisons if each.verdict == "slower"]
    gone = [f"{case} ({why})" for case, why in why_missing(known, report) if asked.has(case)]
    whys = (
        f"slower than {baseline}: {', '.join(slower)}" if slower else "",
        f"in {baseline} and not measured now: {', '.join(gone)}" if gone else "",
        *unjudged_lines(report.comparisons),
    )
    return "; ".join(filter(None, whys)) or None


def _measure(asked: _Asked, out_file: Path | None, known: "EngineReport | None", vary: Sequence[str]) -> "EngineReport":
    from ..engines.ranking import read_ranking
    from .bench_engines import NothingMeasuredError, engine_protocol, measure_engines
    from .compare import check_same, compare_shared
    from .inputs import phantom_slices
    from .report import write_text

    # What a finished run left is replaced by a finished run alone.
    part = out_file.with_name(f"{out_file.name}.part") if out_file is not None and out_file.exists() else out_file

    def keep(report: "EngineReport") -> None:
        """What there is so far, should the run be broken off."""
        if part is not None:
            write_text(part, report.to_json())

    image = phantom_slices()
    protocol = engine_protocol(image, asked.plan, asked.rule, asked.bundles, fresh=asked.extras.fresh)
    if known is not None:
        # Before anything is measured: a refusal must not cost a minute.
        check_same(known.protocol, protocol, vary)
        cases = [one.case for one in (*known.results, *known.peers)]
        if not any(asked.has(case) for case in cases):
            raise UsageError(
                f"the baseline has nothing of what is asked for here, but {', '.join(map(str, cases[:3])) or 'nothing'}"
                f"{' …' if len(cases) > 3 else ''}: pass the --task, --backend, --precision, --batch, --threads and "
                "peers that it was measured with"
            )
    steps = len(asked.bundles) * len(asked.batches or (1, 2, 4, 8)) + asked.extras.roofline
    with progress_bar(steps) as advance:
        try:
            report = measure_engines(
                asked.bundles,
                asked.ways,
                asked.batches,
                image,
                plan=asked.plan,
                rule=asked.rule,
                extras=asked.extras,
                protocol=protocol,
                rankings={name: found for name, bundle in asked.bundles.items() if (found := read_ranking(bundle))},
                advance=advance,
                keep=keep,
            )
        except NothingMeasuredError as error:
            if known is None:
                raise
            raise RefusedError(f"of the baseline nothing could be measured now: {error}") from None
    if known is not None:
        report = report.model_copy(update={"comparisons": compare_shared(known, report)})
    if part is not None and part != out_file:
        part.unlink(missing_ok=True)
    return report


def _measure_against(ctx: typer.Context, asked: _Asked, folder: Path) -> "EngineReport":
    from .against import measure_against
    from .inputs import phantom_slices

    if folder.is_file():
        raise UsageError(
            f"--against measures two folders of bundles in turns, and {folder} is a file: "
            f"hold a report against this machine now with --baseline {folder}, or two with `coronanet bench compare`"
        )
    if not folder.is_dir():
        raise UsageError(f"no folder at {folder}: expected bundles, as `coronanet export --out` writes them")
    others = _provide(ctx, folder, list(asked.bundles))
    batches = asked.batches or [1]
    with progress_bar(len(asked.bundles) * len(asked.ways) * len(batches)) as advance:
        return measure_against(
            asked.bundles,
            others,
            asked.ways,
            batches,
            phantom_slices(),
            plan=asked.plan,
            rule=asked.rule,
            advance=advance,
        )


def _provide(ctx: typer.Context, folder: Path | None, tasks: Sequence[TaskName]) -> dict[TaskName, Bundle]:
    return dict(provide(ctx)(folder, tasks=tasks))
