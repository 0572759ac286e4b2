"""`coronanet train`."""

import dataclasses
import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ..console import JsonOption, emit_json, err, out, warn
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
    together: Annotated[
        bool, typer.Option(help="Teach segmentation tasks at once, one trunk with a head each.")
    ] = False,
    config: Annotated[Path | None, typer.Option(help="A recipe: config.toml of another run.")] = None,
    steps: Annotated[int | None, typer.Option(min=20, help="Steps, instead of the recipe's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of the first weights.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare slices.")] = 1,
    devices: Annotated[int, typer.Option(min=1, help="Processes that train, one a GPU where there are any.")] = 1,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Weights to begin with: a file for one task, or a folder with TASK/weights."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --runs.")] = False,
    show: Annotated[
        bool, typer.Option("--preview", help="Train nothing: draw what is seen, RUNS/preview.png.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train networks on CT slices: data -> card.json and weights.safetensors."""
    try:
        from .config import read_config
        from .recipes import RECIPES, SEGMENTATIONS, TOGETHER
        from .train import train
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", purpose="training", extra="train") from None
    chosen = _tasks(tasks) if tasks or not together else list(SEGMENTATIONS)
    alone: list[list[TaskName]] = [[task] for task in chosen]
    if start is not None and start.is_file() and len(chosen) != 1:
        raise UsageError(f"a file of --from begins one network: expected one task, got {len(chosen)}; or name a folder")
    home = data_home(data)
    if home is None:
        raise UsageError("training needs data: pass --data DIR or set CORONANET_DATA (README, Training)")
    given = read_config(config) if config is not None else None
    if show:
        from .preview import preview

        sheet = preview(chosen, home, runs / "preview.png", seed=seed, recipe=given)
        if as_json:
            emit_json({"preview": str(sheet)})
        else:
            out.print(f"what training sees: {sheet}", soft_wrap=True)
        return
    trained: list[dict[str, object]] = []
    for those in [chosen] if together else alone:
        recipe = given or (TOGETHER if together else RECIPES[those[0]])
        recipe = recipe if steps is None else dataclasses.replace(recipe, steps=steps)
        size = f"{recipe.geometry.height} x {recipe.geometry.width}"
        what = f"{recipe.network.family}, {recipe.steps} steps of {recipe.batch} slices at {size}"
        err.print(f"training {', '.join(those)}: {what}", soft_wrap=True)
        begun = time.monotonic()
        # Lightning's progress goes to stdout, which is for the answer alone.
        with redirect_stdout(sys.stderr):
            cards = train(
                those,
                home,
                folder,
                runs,
                recipe=recipe,
                seed=seed,
                workers=workers,
                start=start,
                resume=resume,
                devices=devices,
                report=lambda error: warn(f"left out: {error}"),
            )
        minutes = round((time.monotonic() - begun) / 60, 1)
        for task, card in cards.items():
            path = str(folder / task)
            trained.append({"task": task, "path": path, "minutes": minutes, "validation": card.validation})
    if _is_helper_process():
        return
    if as_json:
        emit_json({"trained": trained})
        return
    table = Table("task", "minutes", "validation", "weights")
    for row in trained:
        table.add_row(str(row["task"]), str(row["minutes"]), str(row["validation"]), str(row["path"]))
    out.print(table)


def _is_helper_process() -> bool:
    """Whether Lightning started this process for ``--devices``: the first one gives the answer."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _tasks(given: list[str] | None) -> list[TaskName]:
    known: dict[str, TaskName] = {name: name for name in TASK_NAMES}
    if unknown := [name for name in given or () if name not in known]:
        raise UsageError(f"no task '{unknown[0]}': expected {', '.join(TASK_NAMES)}")
    return [known[name] for name in given] if given else list(TASK_NAMES)
