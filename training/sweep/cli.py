"""`coronanet sweep`."""

import math
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ...console import JsonOption, emit_json, err, out
from ...engines.places import data_home
from ...model.errors import MissingPackageError, UsageError
from ...model.tasks import TaskName
from .plan import RATES, TASKS, Budget, Run, rate_name
from .report import describe, report, write_report


def register(app: typer.Typer) -> None:
    app.command("sweep")(sweep_verb)


def sweep_verb(
    *,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    folder: Annotated[
        Path, typer.Option("--out", help="Where runs and tables go; finished runs there are kept.")
    ] = Path("runs/sweep"),
    tasks: Annotated[str, typer.Option(help="Tasks, comma-separated.", show_default="both")] = ",".join(TASKS),
    rates: Annotated[str, typer.Option(help="Learning rates, comma-separated.")] = ",".join(map(rate_name, RATES)),
    steps: Annotated[int, typer.Option(min=1, help="Steps of a run.")] = 500,
    batch: Annotated[int, typer.Option(min=2, help="Slices a step.")] = 8,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side of the network's view, a multiple of 32.")] = 128,
    features: Annotated[int, typer.Option(min=1, help="Filters at the top of the U-Net; the talk's has 32.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of the first weights.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare slices.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train the talk's U-Net with Adam at each learning rate: its table of Dice and Rand loss, and curves."""
    chosen, asked = _tasks(tasks), _rates(rates)
    if size % 32:
        raise UsageError(f"--size {size}: expected a multiple of 32, such as {size // 32 * 32}")
    home = data_home(data)
    if home is None:
        raise UsageError("a sweep needs data: pass --data DIR or set CORONANET_DATA (README, Training)")
    try:
        from .train import sweep_task
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", purpose="training", extra="train") from None
    budget = Budget(steps=steps, batch=batch, size=size, features=features, seed=seed)
    err.print(f"{len(chosen) * len(asked)} runs of {describe(budget)}")
    runs: list[Run] = []
    files: dict[str, str] = {}
    for task in chosen:
        # Lightning's progress goes to stdout, which is for the answer alone.
        with redirect_stdout(sys.stderr):
            runs += sweep_task(task, asked, home, folder, budget, workers=workers)
        files = write_report(runs, budget, folder)
    told = report(runs, budget)
    if as_json:
        emit_json(told | {"files": files})
        return
    _print(told, files)


def _print(told: dict[str, Any], files: dict[str, str]) -> None:
    table = Table("task", "rate", "Dice", "Rand loss", "talk's Dice", "talk's Rand loss", "minutes", "")
    previous = None
    for row in told["rows"]:
        if previous not in (None, row["task"]):
            table.add_section()
        previous = row["task"]
        figures = [row[name] for name in ("dice", "rand_loss", "talk_dice", "talk_rand_loss")]
        table.add_row(
            row["task"],
            row["rate"],
            *("-" if figure is None else f"{figure:.4f}" for figure in figures),
            f"{row['minutes']:.1f}",
            "best" if row["best"] else "",
            style="bold" if row["best"] else "",
        )
    out.print(table)
    out.print(f"budget: {told['described']}; {told['budget']['minutes']:.0f} minutes in all")
    out.print(f"scored: {told['scoring']}; {told['talk']}. Research software, not a medical device.")
    out.print(f"files: {', '.join(files.values())}")


def _tasks(text: str) -> list[TaskName]:
    known: dict[str, TaskName] = {name: name for name in TASKS}
    asked = [part.strip() for part in text.split(",") if part.strip()]
    if not asked or not set(asked) <= known.keys():
        raise UsageError(f"--tasks '{text}': expected {' or '.join(TASKS)}, or both with a comma")
    return [known[name] for name in dict.fromkeys(asked)]


def _rates(text: str) -> list[float]:
    try:
        asked = [float(part) for part in text.split(",")]
    except ValueError:
        asked = []
    if not asked or not all(math.isfinite(rate) and 0 < rate <= 1 for rate in asked):
        raise UsageError(f"--rates '{text}': expected numbers above 0 and up to 1 with commas, such as 1e-3,1e-4")
    return list(dict.fromkeys(asked))
