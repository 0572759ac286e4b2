"""Fill a Triton model repository from bundles, so that a half-written one is never served."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import KeysView, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ..engines.bundle import Bundle, FileRecord, hash_file, publish
from ..engines.open import Backend, file_precision
from ..engines.places import ROOT, cache_home
from ..engines.predictor import Choice
from ..engines.ranking import passed_best_first, read_ranking
from ..model.errors import RefusedError, UsageError
from ..model.tasks import ENSEMBLE, TRIAGE, TaskName
from .container_plans import container_plans
from .linter.filled import INDEX, VERSION, RepositoryIndex, check_index
from .step import REMEDY, STEP
from .step_file import StepFile
from .triton_config import (
    DEFAULT_INSTANCES,
    GENERATED,
    Step,
    Target,
    container_file,
    plan_steps,
    render_configs,
)

CONFIG = "config.pbtxt"
MODEL = "model.py"
CONFIG_PATHS: dict[Target, str] = {
    "embedded": CONFIG,
    "onnxruntime": "configs/onnxruntime.pbtxt",
    "tensorrt": "configs/tensorrt.pbtxt",
}
EDGE = Choice("onnxruntime", "fp32")
#: What the embedded server, which has no GPU, runs networks on.
EMBEDDED: tuple[Backend, ...] = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class FilledStep:
    """A model of a filled repository and what it runs."""

    name: str
    step: StepFile


def repository_home(option: Path | None, *, standard: bool = True) -> Path:
    """The folder of the repository: the option, else ``triton_repo`` of the checkout, else of the user's cache.

    Args:
        option: the folder that was asked for.
        standard: whether bundles and instances are the usual ones. Any others would change the configurations that
            are committed in a checkout, so their folder is in the cache.
    """
    if option is not None:
        return option
    return (ROOT if standard and (ROOT / "pyproject.toml").is_file() else cache_home()) / "triton_repo"


def fill_repository(
    bundles: Mapping[TaskName, Bundle],
    out: Path,
    choices: Mapping[TaskName, Choice],
    *,
    instances: int = DEFAULT_INSTANCES,
    threads: int | None = None,
    response_cache_mib: int = 0,
    triage_threshold: float | None = None,
) -> tuple[FilledStep, ...]:
    """Write the configurations, the models and the index of a repository; models of our own that it lacks go.

    Args:
        bundles: open bundles, at least one.
        out: the repository; what is in it that this did not write is left alone, and refused by ``read_index``.
        choices: how to run each network.
        instances: processes that the embedded server runs for each network.
        threads: threads of one inference; None shares this machine's cores between the instances.
        response_cache_mib: how much the server keeps of what the networks said, in MiB; 0 is nothing.
        triage_threshold: adds the gated model ``coronanet_triage`` with this probability as its gate.

    Raises:
        UsageError: no bundle, a choice that cannot be served, a bundle that lacks a file, or a folder in ``out`` that
            has a step's name and is not ours.
        RefusedError: a copied file does not have the hash of its manifest.
    """
    if not bundles:
        raise UsageError("no bundle to serve: export one with `coronanet export`")
    shared = threads or max(1, len(os.sched_getaffinity(0)) // instances)
    plan = plan_steps(bundles)
    filled = tuple(FilledStep(step.name, _describe(step, bundles[step.task], choices, shared)) for step in plan)
    configs = render_configs(
        bundles, instances=instances, response_cache=response_cache_mib > 0, triage_threshold=triage_threshold
    )
    _check_folder(out, configs.keys())
    # Without its version folder Triton refuses the ensemble, and `read_index` the repository.
    shutil.rmtree(out / ENSEMBLE / VERSION, ignore_errors=True)
    for folder in _own_folders(out) - configs.keys():
        shutil.rmtree(out / folder)
    for name, by_target in configs.items():
        for target, text in by_target.items():
            _write(out / name / CONFIG_PATHS[target], text)
    for step, done in zip(plan, filled, strict=True):
        with publish(out / step.name / VERSION) as work:
            _fill_version(work, step, bundles[step.task], done.step)
    if TRIAGE in configs:
        with publish(out / TRIAGE / VERSION) as work:
            (work / MODEL).write_text(_template(TRIAGE), encoding="utf-8")
    folders = [out / name / VERSION for name in configs]
    files = [out / name / CONFIG_PATHS[target] for name, by_target in configs.items() for target in by_target]
    files += [file for folder in folders if folder.is_dir() for file in folder.iterdir()]
    index = RepositoryIndex(
        files={file.relative_to(out).as_posix(): hash_file(file) for file in sorted(files)},
        bundles={task: bundle.sha256 for task, bundle in bundles.items()},
        response_cache_mib=response_cache_mib,
    )
    with publish((out / INDEX).parent) as work:
        (work / Path(INDEX).name).write_text(index.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return filled


def embedded_choices(bundles: Mapping[TaskName, Bundle], choices: Mapping[TaskName, Choice]) -> dict[TaskName, Choice]:
    """``choices``, with the next best of this machine where the embedded server cannot run the best: a TensorRT plan.

    Raises:
        UsageError: nothing that passed here is left for a network.
    """
    embedded: dict[TaskName, Choice] = {}
    for name, bundle in bundles.items():
        ranking = read_ranking(bundle)
        own = [choices[name]] if choices[name].backend in EMBEDDED else []
        ways = [way for way in ranking.ways if way.backend in EMBEDDED] if ranking else []
        fitting = [*own, *passed_best_first(ways)]
        if not fitting:
            raise UsageError(
                f"{name}: nothing that passed here runs in the embedded server: pip install 'coronanet[cpu]'"
            )
        embedded[name] = fitting[0]
    return embedded


def read_index(repository: Path) -> RepositoryIndex:
    """The index of a whole repository in which every file is as it was filled, and no other is in its models.

    Raises:
        UsageError: there is no repository, or it was not filled to its end.
        RefusedError: a file or a model is not one that the index names, one of those is missing or was changed, or
            another version of this package wrote the code or the index.
    """
    path = repository / INDEX
    if not path.is_file():
        raise UsageError(f"{repository} is not a filled model repository: fill it with `coronanet repository`")
    for fault in check_index(repository):
        raise RefusedError(f"{repository / fault.file} {fault.what}: {fault.remedy}", page="corrupted-file")
    index = RepositoryIndex.model_validate_json(path.read_bytes())
    for name, sha256 in index.files.items():
        if Path(name).name == MODEL and sha256 != _sha256_of_template(name.split("/")[0]):
            raise RefusedError(f"{repository / name} is of another version of coronanet: {REMEDY}")
    return index


def _describe(step: Step, bundle: Bundle, choices: Mapping[TaskName, Choice], threads: int) -> StepFile:
    choice = choices[step.task] if step.graph == "network" else EDGE
    if choice.backend not in EMBEDDED:
        raise UsageError(f"{step.task} cannot be served by {choice.backend}: expected {' or '.join(EMBEDDED)}")
    record = bundle.require(step.graph, file_precision(choice.backend, choice.precision))
    return StepFile(
        bundle=bundle.manifest.name,
        bundle_sha256=bundle.sha256,
        graph=step.graph,
        file=Path(record.path).name,
        sha256=record.sha256,
        backend=choice.backend,
        precision=choice.precision,
        threads=choice.threads or threads,
        inputs=record.inputs,
        outputs=record.outputs,
        max_batch=record.batch.max if record.batch else 1,
    )


def _fill_version(work: Path, step: Step, bundle: Bundle, described: StepFile) -> None:
    embedded = bundle.require(step.graph, file_precision(described.backend, described.precision))
    plans = container_plans(bundle).records if step.graph == "network" else ()
    for record in {record.path: record for record in (embedded, container_file(bundle, step.graph), *plans)}.values():
        _copy(bundle, record, work)
    (work / MODEL).write_text(_template(step.name), encoding="utf-8")
    (work / STEP).write_text(described.to_json(), encoding="utf-8")


def _copy(bundle: Bundle, record: FileRecord, work: Path) -> None:
    copy = work / Path(record.path).name
    shutil.copyfile(bundle.file(record), copy)
    if hash_file(copy) != record.sha256:
        raise RefusedError(
            f"{bundle.file(record)} was changed after export: export it again with `coronanet export`",
            page="corrupted-file",
        )


def _template(model: str) -> str:
    """The code that a model of ours runs in the Python backend."""
    name = "triage.py" if model == TRIAGE else "step.py"
    return (files(__package__ or "") / "templates" / name).read_text(encoding="utf-8")


def _sha256_of_template(model: str) -> str:
    return hashlib.sha256(_template(model).encode()).hexdigest()


def _own_folders(out: Path) -> set[str]:
    """The models in ``out`` that this module wrote, by the first line of their configuration."""
    return {
        path.parent.name for path in out.glob(f"*/{CONFIG}") if path.read_text(encoding="utf-8").startswith(GENERATED)
    }


def _check_folder(out: Path, names: KeysView[str]) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: expected a folder for the model repository")
    if foreign := sorted(name for name in names - _own_folders(out) if (out / name / CONFIG).exists()):
        raise UsageError(
            f"{out / foreign[0]} was not written by `coronanet repository`: move it, or choose another --out"
        )


def _write(path: Path, text: str) -> None:
    """Write a text whole or not at all; one that is already there is left untouched."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(name).chmod(0o644)
    os.replace(name, path)
