"""`coronanet ucsd`."""

import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ...console import JsonOption, emit_json, err, out
from ...engines.places import data_home
from ...model.errors import MissingPackageError, UsageError


def register(app: typer.Typer) -> None:
    app.command("ucsd")(ucsd_verb)


def ucsd_verb(
    *,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets.")] = None,
    folder: Annotated[Path, typer.Option("--out", help="Where ucsd/card.json and weights go.")] = Path("runs/weights"),
    runs: Annotated[Path, typer.Option(help="Where ucsd/metrics.csv and the best checkpoint go.")] = Path("runs"),
    steps: Annotated[int, typer.Option(min=20, help="Steps of 16 images.")] = 1500,
    size: Annotated[int, typer.Option(help="Side that the network works at, a multiple of 32.")] = 288,
    seed: Annotated[int, typer.Option(help="Seed of the draw and of the first weights.")] = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that prepare images.")] = 0,
    start: Annotated[Path | None, typer.Option("--from", help="Weights to begin with, not ImageNet's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train the classifier of the UCSD COVID-CT benchmark, and score it beside what needs no lungs at all."""
    home = data_home(data)
    if home is None:
        raise UsageError("training needs data: pass --data DIR or set CORONANET_DATA (README, Training)")
    try:
        from .shortcuts import shortcut_scores
        from .train import train_ucsd
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "torch", purpose="training", extra="train") from None
    err.print("scoring the baseline that sees only format, borders and corners")
    shortcuts = shortcut_scores(home, "val")
    err.print(f"training ucsd: {steps} steps of 16 images")
    begun = time.monotonic()
    # Lightning's progress goes to stdout, which is for the answer alone.
    with redirect_stdout(sys.stderr):
        card = train_ucsd(home, folder, runs, steps=steps, size=size, seed=seed, workers=workers, start=start)
    minutes = round((time.monotonic() - begun) / 60, 1)
    if as_json:
        emit_json(
            {
                "path": str(folder / "ucsd"),
                "minutes": minutes,
                "validation": card.validation,
                "shortcut_baseline_auc": shortcuts,
            }
        )
        return
    table = Table("on the val split", "AUC", "F1", title="UCSD COVID-CT: research software, not a medical device")
    table.add_row("this network", f"{card.validation['auc']:.3f}", f"{card.validation['f1']:.3f}")
    table.add_row("format, borders and corners of the published files", f"{shortcuts['published']:.3f}", "")
    table.add_row("borders and corners as the network sees them", f"{shortcuts['encoded']:.3f}", "")
    out.print(table)
    out.print(f"weights in {folder / 'ucsd'}, after {minutes} minutes")
