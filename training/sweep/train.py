"""`coronanet sweep`: the learning-rate table of the Corona-Net talk, on groups held back.

The talk (Choi 2020) trained its U-Net with Adam at four rates. Its splits were not published, so its figures stand
beside these and are not the same measurement.
"""

import dataclasses
import json
import math
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from ...engines.bundle import publish
from ...engines.datasets import load_split
from ...engines.samples import Split
from ...model.card import Geometry
from ...model.errors import UsageError
from ...model.tasks import TaskName
from ...model.weights import save_weights
from ..fit import fit
from ..recipes import Recipe
from ..train import make_card
from .learner import TalkLearner
from .plan import Budget, Run, run_folder

WEIGHT_DECAY = 5e-4
RUN = "run.json"


def sweep_task(
    task: TaskName, rates: Sequence[float], data: Path, out: Path, budget: Budget, *, workers: int = 1
) -> list[Run]:
    """Train one network at every rate; a run that is finished in ``out`` is read and not made again.

    Each run is a folder ``out/<task>/<rate>/``: ``card.json``, ``weights.safetensors``, ``metrics.csv``, ``run.json``.

    Raises:
        UsageError: a run in ``out`` was made with another budget or from other data.
    """
    split = load_split((task,), data)
    runs: list[Run] = []
    for rate in rates:
        folder = run_folder(out, task, rate)
        finished = _read_run(folder, task, rate)
        if finished is None:
            finished = _train(task, rate, split, folder, budget, workers=workers)
        elif finished.budget != budget:
            had, want = (json.dumps(dataclasses.asdict(one)) for one in (finished.budget, budget))
            raise UsageError(f"{folder} was made with {had}, not {want}: choose another --out")
        elif finished.data_sha256 != split.sha256:
            raise UsageError(f"{folder} was made from other data than {data}: choose another --out")
        runs.append(finished)
    return runs


def _train(task: TaskName, rate: float, split: Split, folder: Path, budget: Budget, *, workers: int) -> Run:
    recipe = Recipe(
        budget.network,
        geometry=Geometry(height=budget.size, width=budget.size),
        steps=budget.steps,
        batch=budget.batch,
        learning_rate=rate,
        weight_decay=WEIGHT_DECAY,
        # The talk does not average weights.
        ema_decay=0.0,
        seed=budget.seed,
    )
    epoch_steps = math.ceil(len(split.train) / budget.batch)
    begun = time.monotonic()
    with publish(folder) as work:
        fitted = fit(
            {task: make_card(task, recipe.network, split, {}, recipe.geometry)},
            recipe,
            split,
            work,
            workers=workers,
            start=None,
            resume=None,
            make_learner=partial(TalkLearner, epoch_steps=epoch_steps),
        )
        scores = {name: round(value, 4) for name, value in fitted.validation[task].items()}
        run = Run(task, rate, budget, split.sha256, scores, round((time.monotonic() - begun) / 60, 2))
        # A finished run needs no checkpoint, which is ten times the size of its weights.
        for checkpoint in work.glob("*.ckpt"):
            checkpoint.unlink()
        save_weights(fitted.networks[task], work / "weights.safetensors")
        card = make_card(task, recipe.network, split, scores, recipe.geometry)
        (work / "card.json").write_text(card.to_json(), encoding="utf-8")
        (work / RUN).write_text(json.dumps(dataclasses.asdict(run), indent=2) + "\n", encoding="utf-8")
    return run


def _read_run(folder: Path, task: TaskName, rate: float) -> Run | None:
    path = folder / RUN
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return Run(task, rate, Budget(**told["budget"]), told["data_sha256"], told["scores"], told["minutes"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is not a finished run ({error}): remove its folder to make the run again") from None
