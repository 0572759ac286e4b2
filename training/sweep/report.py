"""The table and the curves of a sweep, as files."""

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...model.errors import MissingPackageError
from ...model.tasks import TaskName
from ..files import write_whole
from .plan import TALK, Budget, Run, best, rate_name, run_folder

METRICS = "metrics.csv"
CAVEAT = "the talk's figures are of other splits, which were not published, and of longer training"
SCORING = (
    "slices of volumes and patients held back; Dice: mean over the slices that hold the class, then over the classes; "
    "Rand loss: 1 - Rand index, mean over all slices"
)

#: The files of a report, beside the runs' own folders.
TOLD, TABLE, PAGE, CURVES = "sweep.json", "sweep.csv", "sweep.md", "curves.png"
#: A point of a curve: step and value.
Curve = list[tuple[int, float]]


def describe(budget: Budget) -> str:
    """The budget in one line."""
    return (
        f"{budget.steps} steps of {budget.batch} slices at {budget.size} x {budget.size}, U-Net with {budget.features} "
        "features, Adam, weight decay 5e-4, rate / 10 every 100 passes through the data where a run is that long"
    )


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The table, a row a run; the talk's figures are None at a rate that it did not try."""
    winners = {task: best([run for run in runs if run.task == task]) for task in {run.task for run in runs}}
    return [
        {
            "task": run.task,
            "rate": rate_name(run.rate),
            "dice": run.dice,
            "rand_loss": run.rand_loss,
            "best": run is winners[run.task],
            "talk_dice": TALK[run.task].get(run.rate, (None, None))[0],
            "talk_rand_loss": TALK[run.task].get(run.rate, (None, None))[1],
            "minutes": run.minutes,
            **{name: value for name, value in run.scores.items() if name.startswith("dice_")},
        }
        for run in runs
    ]


def report(runs: Sequence[Run], budget: Budget) -> dict[str, Any]:
    """What ``sweep.json`` says."""
    return {
        "budget": dataclasses.asdict(budget) | {"minutes": round(sum(run.minutes for run in runs), 2)},
        "described": describe(budget),
        "scoring": SCORING,
        "talk": CAVEAT,
        "rows": rows(runs),
    }


def write_report(runs: Sequence[Run], budget: Budget, out: Path) -> dict[str, str]:
    """Write ``sweep.json``, ``sweep.csv``, ``sweep.md`` and ``curves.png`` to ``out``; returns their paths by name.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    table = rows(runs)
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in table for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    curves: dict[tuple[TaskName, float], dict[str, Curve]] = {
        (run.task, run.rate): read_curves(run_folder(out, run.task, run.rate) / METRICS) for run in runs
    }
    told = report(runs, budget)
    files = {
        TOLD: (json.dumps(told, indent=2) + "\n").encode(),
        TABLE: text.getvalue().encode(),
        PAGE: render_page(told).encode(),
        CURVES: draw_curves(curves, describe(budget)),
    }
    for name, content in files.items():
        write_whole(out / name, content)
    return {name: str(out / name) for name in files}


def render_page(told: Mapping[str, Any]) -> str:
    """A report as Markdown: the table, the budget beside it and the curves.

    Args:
        told: what ``report`` gives, or a ``sweep.json``.
    """
    columns = ("dice", "rand_loss", "talk_dice", "talk_rand_loss")
    lines = [
        "# The learning-rate table",
        "",
        "**Research software, not a medical device.** Written by `coronanet sweep`.",
        "",
        f"Budget of every run: {told['described']}; {told['budget']['minutes']:.0f} minutes for all of them.",
        "",
        f"Scored on {told['scoring']}. Beside them {told['talk']}: the same table, not the same measurement.",
    ]
    for task in dict.fromkeys(row["task"] for row in told["rows"]):
        lines += ["", f"## {task.replace('_', ' ').capitalize()}", ""]
        lines += ["| rate | Dice | Rand loss | the talk's Dice | the talk's Rand loss |", "|---|---|---|---|---|"]
        for row in told["rows"]:
            if row["task"] == task:
                figures = ["" if row[name] is None else f"{row[name]:.4f}" for name in columns]
                mark = "**" if row["best"] else ""
                lines.append(f"| {mark}{row['rate']}{mark} | {' | '.join(figures)} |")
    return "\n".join([*lines, "", f"![Loss and Dice of every run]({CURVES})", ""])


def read_curves(metrics: Path) -> dict[str, Curve]:
    """``loss`` and ``dice`` by step, from a run's ``metrics.csv``."""
    curves: dict[str, Curve] = {"loss": [], "dice": []}
    with metrics.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, curve in curves.items():
                if row.get(name):
                    curve.append((int(row["step"]), float(row[name])))
    return {name: sorted(dict(curve).items()) for name, curve in curves.items()}


def draw_curves(curves: Mapping[tuple[TaskName, float], Mapping[str, Curve]], caption: str) -> bytes:
    """A PNG: a row a task, the loss on the left, the validation Dice on the right, a line a rate."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingPackageError("matplotlib", purpose="the curves of a sweep", extra="train") from None
    tasks = list(dict.fromkeys(task for task, _ in curves))
    figure = Figure(figsize=(10, 3.6 * len(tasks)), layout="constrained")
    axes = figure.subplots(len(tasks), 2, squeeze=False)
    titles = {"loss": ("training loss", "loss"), "dice": ("Dice on groups held back", "Dice")}
    for (task, rate), lines in curves.items():
        for column, (name, (title, short)) in enumerate(titles.items()):
            axis = axes[tasks.index(task), column]
            axis.plot(*zip(*lines[name], strict=True) if lines[name] else ([], []), label=rate_name(rate), marker=".")
            axis.set(title=f"{task.replace('_', ' ')}: {title}", xlabel="step", ylabel=short)
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.legend(title="learning rate")
    for axis in axes[:, 1]:
        axis.set_ylim(0, 1)
    figure.supxlabel(f"{caption}. Research software, not a medical device.", fontsize=7)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=120)
    return png.getvalue()
