"""`coronanet train`."""

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..console import JsonOption, emit_json, err, out, warn
from ..engines.places import data_home
from ..model.errors import MissingPackageError, UsageError
from ..model.tasks import TASK_NAMES, TaskName
from .processes import is_helper, one_voice

if TYPE_CHECKING:
    from .recipes import Recipe


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
    batch: Annotated[int | None, typer.Option(min=1, help="Slices a step, of all processes together.")] = None,
    size: Annotated[int | None, typer.Option(help="Side in pixels that the network works at.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest learning rate.")] = None,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Validations without a better score that end the run.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the draw and of the first weights.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare slices.")] = 1,
    devices: Annotated[int, typer.Option(min=1, help="Processes that train, one a GPU where there are any.")] = 1,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Weights to begin with: a file for one task, or a folder with TASK/weights."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in --runs.")] = False,
    show: Annotated[
        bool, typer.Option("--preview", help="Train nothing: draw what is seen, RUNS/TASK/preview.png.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train networks on CT slices: data -> card.json and weights.safetensors."""
    try:
        from .config import change, read_config
        from .recipes import RECIPES, SEGMENTATIONS, TOGETHER
        from .train import train
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", purpose="training", extra="train") from None
    chosen = _tasks(tasks) if tasks or not together else list(SEGMENTATIONS)
    if start is not None and start.is_file() and len(chosen) != 1:
        raise UsageError(f"a file of --from begins one network: expected one task, got {len(chosen)}; or name a folder")
    home = data_home(data)
    if home is None:
        raise UsageError("training needs data: pass --data DIR or set CORONANET_DATA (README, Training)")
    given = read_config(config) if config is not None else None
    wanted = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "patience": patience, "seed": seed}
    changes: dict[str, object] = {name: value for name, value in wanted.items() if value is not None}
    if size is not None:
        changes["geometry"] = {"height": size, "width": size}

    def recipe_of(those: list[TaskName], *, as_one: bool) -> "Recipe":
        return change(given or (TOGETHER if as_one else RECIPES[those[0]]), changes)

    groups: dict[str, list[TaskName]] = {"+".join(chosen): chosen} if together else {task: [task] for task in chosen}
    if show:
        sheets = {name: (those, recipe_of(those, as_one=together)) for name, those in groups.items()}
        _preview(sheets, home, runs, as_json=as_json)
        return
    trained: list[dict[str, object]] = []
    with one_voice():
        for those in groups.values():
            recipe = recipe_of(those, as_one=together)
            _announce(those, recipe, devices)
            left_out: list[UsageError] = []
            begun = time.monotonic()
            cards = train(
                those,
                home,
                folder,
                runs,
                recipe=recipe,
                workers=workers,
                start=start,
                resume=resume,
                devices=devices,
                report=partial(_leave_out, left_out),
            )
            minutes = round((time.monotonic() - begun) / 60, 1)
            rest = {"minutes": minutes, "pictures_left_out": len(left_out)}
            for task, card in cards.items():
                trained.append({"task": task, "path": str(folder / task), **rest, "validation": card.validation})
    _answer(trained, as_json=as_json)


def _announce(tasks: list[TaskName], recipe: "Recipe", devices: int) -> None:
    if is_helper():
        return
    sides = f"{recipe.geometry.height} x {recipe.geometry.width}"
    shared = f", shared by {devices} processes" if devices > 1 else ""
    what = f"{recipe.network.family}, {recipe.steps} steps of {recipe.batch} slices at {sides}{shared}"
    err.print(f"training {', '.join(tasks)}: {what}", soft_wrap=True)


def _preview(sheets: "dict[str, tuple[list[TaskName], Recipe]]", data: Path, runs: Path, *, as_json: bool) -> None:
    """A contact sheet of every run that these options would begin."""
    from .preview import preview

    drawn = [
        str(preview(tasks, data, runs / name / "preview.png", recipe=recipe))
        for name, (tasks, recipe) in sheets.items()
    ]
    if as_json:
        emit_json({"previews": drawn})
        return
    for path in drawn:
        out.print(f"what training sees: {path}", soft_wrap=True)


def _leave_out(left_out: list[UsageError], error: UsageError) -> None:
    left_out.append(error)
    if not is_helper():
        warn(f"picture left out ({len(left_out)} so far): {error}")


def _answer(trained: list[dict[str, object]], *, as_json: bool) -> None:
    if as_json:
        emit_json({"trained": trained})
        return
    table = Table("task", "minutes", "validation", "weights")
    for row in trained:
        table.add_row(str(row["task"]), str(row["minutes"]), str(row["validation"]), str(row["path"]))
    out.print(table)
    out.print("Research software, not a medical device.")


def _tasks(given: list[str] | None) -> list[TaskName]:
    known: dict[str, TaskName] = {name: name for name in TASK_NAMES}
    if unknown := [name for name in given or () if name not in known]:
        raise UsageError(f"no task '{unknown[0]}': expected {', '.join(TASK_NAMES)}")
    return [known[name] for name in given] if given else list(TASK_NAMES)
