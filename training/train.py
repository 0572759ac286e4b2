"""`coronanet train`: data in, a card and weights out."""

from collections.abc import Sequence
from pathlib import Path

from ..engines.bundle import publish
from ..engines.datasets import Report, load_split
from ..engines.samples import Split
from ..model.card import Card, Geometry, Network, Normalisation, TrainingData, Window
from ..model.errors import UsageError
from ..model.tasks import TASKS, TaskName
from ..model.weights import save_weights
from .checkpoints import LAST, steps_done
from .config import CONFIG, differences, read_config, write_config
from .fit import fit
from .recipes import GEOMETRY, NORMALISATION, RECIPES, TOGETHER, WINDOW, Recipe

#: Share of labels on which a deployed form may differ from the torch reference.
TOLERANCE = 1e-3
LICENCE = (
    "Research and non-commercial use only: trained on data whose terms say so (MedSeg COVID-19 CT, Radiopaedia cases "
    "CC BY-NC-SA, NSCLC-Radiomics CC BY-NC with PleThora masks)."
)
INTENDED_USE = "Research on axial chest CT of adults. Not a medical device; not for diagnosis or treatment decisions."


def train(
    tasks: Sequence[TaskName],
    data: Path,
    out: Path,
    runs: Path,
    *,
    recipe: Recipe | None = None,
    workers: int = 1,
    start: Path | None = None,
    resume: bool = False,
    devices: int = 1,
    report: Report | None = None,
) -> dict[TaskName, Card]:
    """Train the network of a task and publish ``out/<task>/``: its card, weights and ``config.toml``.

    Several tasks train together: one network with a head each, published as one network a task. The run's own recipe,
    checkpoint and curves are in ``runs/<task>/``, or ``runs/<task>+<task>/``.

    Args:
        start: weights to begin with, as far as they fit, instead of the recipe's own beginning: a file, or a folder
            that holds ``<task>/weights.safetensors``.
        devices: processes that share the work, one a GPU where there are any; only the first publishes.
        report: told of every picture that cannot be read and is left out; without it the first such ends the run.
        resume: whether to go on from the last checkpoint in ``runs``, where there is one.

    Raises:
        UsageError: the data sets of the tasks are not in ``data``, ``start`` does not fit the network, the run to
            resume was begun with another recipe, or an unfinished run would be lost.
        OSError: the disk is full; the last checkpoint stays, and nothing is published.
    """
    recipe = recipe or (RECIPES[tasks[0]] if len(tasks) == 1 else TOGETHER)
    split = load_split(tasks, data, report)
    cards: dict[TaskName, Card] = {task: card_for(task, recipe, split, {}) for task in tasks}
    folder = runs / "+".join(tasks)
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / LAST
    resumed = last if resume and last.is_file() else None
    if resumed is None and last.is_file():
        _refuse_to_lose(last, folder / CONFIG)
    _keep_recipe(recipe, folder / CONFIG, resumed)
    fitted = fit(
        cards,
        recipe,
        split,
        folder,
        workers=workers,
        start=start,
        resume=resumed,
        devices=devices,
    )
    if not fitted.is_first:
        return cards
    for task in tasks:
        scores = {name: round(value, 4) for name, value in fitted.validation[task].items()}
        cards[task] = card_for(task, recipe, split, scores)
        try:
            with publish(out / task) as work:
                save_weights(fitted.networks[task], work / "weights.safetensors")
                (work / "card.json").write_text(cards[task].to_json(), encoding="utf-8")
                write_config(recipe, work / CONFIG)
        except OSError as error:
            reason = f"{error.strerror or error}: nothing was published there; make room and go on with --resume"
            raise OSError(error.errno, reason, str(out / task)) from None
    return cards


def _refuse_to_lose(last: Path, config: Path) -> None:
    """A run that was stopped before its end is worth hours: it is not overwritten for want of ``--resume``."""
    done, wanted = steps_done(last), read_config(config).steps
    if done < wanted:
        raise UsageError(
            f"a run was stopped there after {done} of {wanted} steps: go on with --resume, name another folder with "
            f"--runs, or delete {last}"
        )


def _keep_recipe(recipe: Recipe, path: Path, resumed: Path | None) -> None:
    """Write a run's recipe into its folder; a run that goes on must have the recipe that it was begun with."""
    if resumed is not None and path.is_file():
        if changed := differences(read_config(path), recipe):
            raise UsageError(
                f"{resumed} was begun with another recipe ({changed}): pass --config {path}, or begin anew without "
                "--resume"
            )
        return
    write_config(recipe, path)


def card_for(task: TaskName, recipe: Recipe, split: Split, validation: dict[str, float]) -> Card:
    """The card of a network that ``split`` taught by ``recipe``."""
    return make_card(
        task,
        recipe.network,
        split,
        validation,
        recipe.geometry,
        window=recipe.window,
        normalisation=recipe.normalisation,
    )


def make_card(
    task: TaskName,
    network: Network,
    split: Split,
    validation: dict[str, float],
    geometry: Geometry = GEOMETRY,
    *,
    window: Window = WINDOW,
    normalisation: Normalisation = NORMALISATION,
) -> Card:
    """The card of a network that ``split`` taught."""
    return Card(
        task=task,
        network=network,
        labels=TASKS[task].labels,
        geometry=geometry,
        window=window,
        normalisation=normalisation,
        threshold=None if TASKS[task].channels > 1 else 0.5,
        tolerance=TOLERANCE,
        training_data=TrainingData(sources=split.sources, slices=len(split.train), sha256=split.sha256),
        validation=validation,
        licence=LICENCE,
        intended_use=INTENDED_USE,
    )
