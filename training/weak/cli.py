"""`coronanet weak`."""

import dataclasses
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ...console import JsonOption, emit_json, err, out
from ...engines.places import data_home
from ...model.errors import MissingPackageError, UsageError


def register(app: typer.Typer) -> None:
    app.command("weak")(weak_verb)


def weak_verb(
    *,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where binary_segmentation/ goes.")] = Path("runs/weak/weights"),
    runs: Annotated[Path, typer.Option(help="Where checkpoints and metrics.csv go.")] = Path("runs/weak"),
    steps: Annotated[int, typer.Option(min=1, help="Steps of the segmentation network.")] = 800,
    classifier_steps: Annotated[
        int, typer.Option(min=1, help="Steps of the first classifier; each later round takes half.")
    ] = 400,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of mining.")] = 3,
    size: Annotated[
        int, typer.Option(min=32, max=2048, help="Side of the segmentation network's view, a multiple of 32.")
    ] = 256,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of the first weights.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare slices.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Train a lesion network from image labels alone: infected or not, and no drawn mask."""
    if size % 32:
        raise UsageError(f"--size {size}: expected a multiple of 32, such as {size // 32 * 32}")
    home = data_home(data)
    if home is None:
        raise UsageError("training needs data: pass --data DIR or set CORONANET_DATA (README, Training)")
    try:
        from .train import Budget, train_weakly
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", purpose="training", extra="train") from None
    budget = Budget(classifier_steps, rounds, steps, size, seed, workers)
    err.print(
        f"{rounds} classifiers ({classifier_steps} steps, then {max(1, classifier_steps // 2)} each), then "
        f"{steps} steps of the segmentation network at {size} x {size}"
    )
    # Lightning's progress goes to stdout, which is for the answer alone.
    with redirect_stdout(sys.stderr):
        weak = train_weakly(home, folder, runs, budget)
    path = str(folder / weak.card.task)
    if as_json:
        told = dataclasses.asdict(weak)
        del told["card"]
        emit_json({"weights": path, "budget": dataclasses.asdict(budget), "validation": weak.card.validation} | told)
        return
    table = Table("masks on infected slices held back", "mean Dice", "pooled Dice")
    for stage in weak.stages:
        table.add_row(stage.name, f"{stage.dice:.4f}", f"{stage.pooled_dice:.4f}")
    out.print(table)
    out.print(f"network on all slices held back: {weak.card.validation}; {weak.minutes} minutes")
    out.print(
        f"{weak.slices} slices, {weak.infected} infected; {weak.taught} taught the network. Score it beside full "
        f"supervision with `coronanet evaluate`: {path}. Research software, not a medical device."
    )
