"""`coronanet train`."""

import dataclasses
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..console import JsonOption, emit_json, err, out
from ..engines.places import data_home
from ..model.errors import MissingPackageError, UsageError
from ..model.tasks import TASK_NAMES, TaskName


def register(app: typer.Typer) -> None:
    app.command("train")(train_verb)


def train_verb(
    tasks: Annotated[list[str] | None, typer.Argument(help=f"What to train, of: {', '.join(TASK_NAMES)}.")] = None,
    *,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where TASK/card.json and weights go.")] = Path("runs/weights"),
    runs: Annotated[Path, typer.Option(help="Where checkpoints and metrics.csv go.")] = Path("runs"),
    steps: Annotated[int | None, typer.Option(min=20, help="Steps, instead of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of the first weights.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare slices.")] = 1,
    start: Annotated[Path | None, typer.Option("--from", help="Weights to begin with, for one task.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --runs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train networks on CT slices: data -> card.json and weights.safetensors."""
    chosen = _tasks(tasks)
    if start is not None and len(chosen) != 1:
        raise UsageError(f"--from begins one network: expected one task, got {len(chosen)}")
    home = data_home(data)
    if home is None:
        raise UsageError("training needs data: pass --data DIR or set CORONANET_DATA (README, Training)")
    try:
        from .recipes import RECIPES
        from .train import train
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", purpose="training", extra="train") from None
    trained: list[dict[str, object]] = []
    for task in chosen:
        recipe = RECIPES[task] if steps is None else dataclasses.replace(RECIPES[task], steps=steps)
        err.print(f"training {task}: {recipe.network.family}, {recipe.steps} steps of {recipe.batch} slices")
        begun = time.monotonic()
        # Lightning's progress goes to stdout, which is for the answer alone.
        with redirect_stdout(sys.stderr):
            card = train(
                task, home, folder, runs, recipe=recipe, seed=seed, workers=workers, start=start, resume=resume
            )
        minutes = round((time.monotonic() - begun) / 60, 1)
        trained.append({"task": task, "path": str(folder / task), "minutes": minutes, "validation": card.validation})
    if as_json:
        emit_json({"trained": trained})
        return
    table = Table("task", "minutes", "validation", "weights")
    for row in trained:
        table.add_row(str(row["task"]), str(row["minutes"]), str(row["validation"]), str(row["path"]))
    out.print(table)


def _tasks(given: list[str] | None) -> list[TaskName]:
    known: dict[str, TaskName] = {name: name for name in TASK_NAMES}
    if unknown := [name for name in given or () if name not in known]:
        raise UsageError(f"no task '{unknown[0]}': expected {', '.join(TASK_NAMES)}")
    return [known[name] for name in given] if given else list(TASK_NAMES)
