"""`coronanet repository`: fill the model repository, or look for faults in one."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ..console import JsonOption, emit_json, err, fail, out, warn
from ..engines.bundle import Bundle
from ..engines.keys_cli import RequireSignatureOption, load_public_key
from ..engines.places import BundleProvider
from ..model.errors import MissingPackageError, UsageError
from ..model.tasks import TaskName

if TYPE_CHECKING:
    from ..engines.keys import PublicKey
    from .linter import Fault
    from .repository import FilledStep
    from .triton_config import Target

#: What a server reads that is told no --model-config-name: for ours, the embedded one.
DEFAULT = "embedded"
#: A verdict is no: the linter found something.
FAULTY = 1

BundlesOption = Annotated[Path | None, typer.Option("--bundles", help="Folder of the bundles.")]
InstancesOption = Annotated[int, typer.Option("--instances", min=1, max=64, help="Processes for each network.")]


def register(app: typer.Typer) -> None:
    app.command("repository")(repository_verb)


def repository_verb(
    ctx: typer.Context,
    checked: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="With --check: any Triton model repository.")
    ] = None,
    *,
    folder: Annotated[Path | None, typer.Option("--out", help="The model repository.")] = None,
    bundles: BundlesOption = None,
    instances: InstancesOption = 2,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="embedded|onnxruntime|tensorrt",
            help="Check what was filled for this target, and say how to start it; with --check, look at this one "
            "alone (any --model-config-name).",
        ),
    ] = None,
    triage: Annotated[
        bool, typer.Option("--triage", help="Add coronanet_triage, which segments lesions only in infected slices.")
    ] = False,
    triage_threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Its gate, for a classification that does not ship.", show_default=False),
    ] = None,
    response_cache: Annotated[
        int,
        typer.Option(metavar="MIB", min=0, max=2**16, help="Keep what the networks said of a slice, so much of it."),
    ] = 0,
    check: Annotated[
        bool, typer.Option("--check", help="Fill nothing: look for faults in a repository, ours or anybody's.")
    ] = False,
    require_signature: RequireSignatureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fill the model repository that Triton mounts: configurations for every target, models for this machine.

    With --check it is a linter for ensembles: names, types, axes, batch and versions of every model against its files,
    and what flows between the steps. Exit code 1 when it finds a fault.
    """
    if check:
        _check(checked or home_of(folder, None, instances), target, as_json)
        return
    if checked is not None:
        raise UsageError(f"{checked} is looked at with --check; to fill it, write --out {checked}")
    key = load_public_key(require_signature)
    wanted = _target(target)
    home = home_of(folder, bundles, instances, others=triage or triage_threshold is not None or response_cache > 0)
    opened = provide(ctx.obj, bundles, key)
    threshold = _threshold(opened, triage_threshold) if triage or triage_threshold is not None else None
    steps = fill(opened, home, instances, response_cache_mib=response_cache, triage_threshold=threshold)
    missing = _without_plans(opened)
    faults, start = _for_target(home, wanted, response_cache)
    if as_json:
        emit_json(
            {
                "repository": str(home),
                "instances": instances,
                "steps": [_step_json(each) for each in steps],
                "without_plans": missing,
                "triage_threshold": threshold,
                "target": wanted,
                "faults": [asdict(fault) for fault in faults],
                "start": start,
            }
        )
    else:
        _print_steps(steps)
        out.print(f"repository: {home}", soft_wrap=True)
        if threshold is not None:
            out.print(f"coronanet_triage: lesions where infected_probability is {threshold:g} or more")
        if missing and wanted is None:
            err.print(
                f"not for `--model-config-name tensorrt`: {', '.join(missing)} without a proved TensorRT plan; build "
                "them on the server's GPU with `coronanet export --fp16 --tensorrt`, or use `--model-config-name "
                "onnxruntime`",
                soft_wrap=True,
            )
        if start is not None and not faults:
            out.print(f"start it: {start}", soft_wrap=True)
    _end(faults)


def home_of(folder: Path | None, bundles: Path | None, instances: int, *, others: bool = False) -> Path:
    """The repository of a verb; what would change the committed configurations goes to the user's cache instead."""
    try:
        from .repository import repository_home
        from .triton_config import DEFAULT_INSTANCES
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    home = repository_home(folder, standard=bundles is None and instances == DEFAULT_INSTANCES and not others)
    if folder is None and home != repository_home(None):
        err.print(f"options of your own: {home}, not the committed repository", soft_wrap=True)
    return home


def provide(provider: BundleProvider, bundles: Path | None, key: "PublicKey | None") -> Mapping[TaskName, Bundle]:
    """The bundles of a verb; with a key, those that it signed."""
    opened = provider(bundles, key=key)
    if key is not None:
        err.print(f"every bundle is signed with key {key.fingerprint}")
    return opened


def fill(
    bundles: Mapping[TaskName, Bundle],
    home: Path,
    instances: int,
    *,
    response_cache_mib: int = 0,
    triage_threshold: float | None = None,
) -> "tuple[FilledStep, ...]":
    """Fill the repository with what is fastest here."""
    try:
        from .repository import embedded_choices, fill_repository
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    from ..engines.ranking import choose

    with err.status("filling the model repository"):
        return fill_repository(
            bundles,
            home,
            embedded_choices(bundles, choose(bundles)),
            instances=instances,
            response_cache_mib=response_cache_mib,
            triage_threshold=triage_threshold,
        )


def missing_package(error: ModuleNotFoundError) -> MissingPackageError:
    """What to install for a module that serving lacks."""
    return MissingPackageError(error.name or "tritonclient", purpose="serving", extra="serve")


def _check(repository: Path, target: str | None, as_json: bool) -> None:
    try:
        from .linter import lint_repository
        from .linter.files import NO_PLAN
        from .linter.models import target_names
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    names = [target] if target else [DEFAULT, *(target_names(repository) if repository.is_dir() else ())]
    found = {name: lint_repository(repository, None if name == DEFAULT else name) for name in names}
    # Not every repository is for a GPU: a target that nobody asked for and that has no plans is only mentioned.
    unfilled = {
        name: [fault.model for fault in faults if fault.rule == NO_PLAN]
        for name, faults in found.items()
        if name not in (DEFAULT, target)
    }
    # What is wrong for every target is said once.
    faults = list(
        dict.fromkeys(
            fault
            for name, faults in found.items()
            for fault in faults
            if not (fault.rule == NO_PLAN and unfilled.get(name))
        )
    )
    for name, models in unfilled.items():
        if models:
            warn(f"not for {name}: no TensorRT plan of {', '.join(models)} (`--target {name}` says what to do)")
    if as_json:
        emit_json(
            {
                "repository": str(repository),
                "targets": names,
                "without_plans": {name: models for name, models in unfilled.items() if models},
                "faults": [
                    {**asdict(fault), "targets": [name for name, of in found.items() if fault in of]}
                    for fault in faults
                ],
            }
        )
    elif not faults:
        out.print(f"{repository}: no fault for {', '.join(names)}", soft_wrap=True)
    _end(faults)


def _end(faults: "Sequence[Fault]") -> None:
    """A line for each fault, and exit code 1 where there is any."""
    for fault in faults:
        fail(str(fault))
    if faults:
        raise typer.Exit(FAULTY)


def _target(name: str | None) -> "Target | None":
    try:
        from .triton_config import TARGETS
    except ModuleNotFoundError as error:
        raise missing_package(error) from None
    for target in TARGETS:
        if name == target:
            return target
    if name is None:
        return None
    raise UsageError(f"expected --target {' or '.join(TARGETS)}, got {name}")


def _for_target(home: Path, target: "Target | None", response_cache_mib: int) -> "tuple[list[Fault], str | None]":
    """The faults of a repository and, where there is none, what starts it; None looks only for what was not filled."""
    from .container import docker_command
    from .linter import lint_repository
    from .linter.filled import check_index

    faults = lint_repository(home, None if target == DEFAULT else target) if target else [*check_index(home)]
    if faults:
        return faults, None
    if target in (None, DEFAULT):
        return [], _serve_command(home)
    return [], shlex.join(docker_command(home, target, response_cache_mib=response_cache_mib))


def _serve_command(home: Path) -> str:
    """Serves it with the options that it was filled with; `coronanet serve` alone fills one with its own."""
    return shlex.join(["coronanet", "serve", "--repository", str(home)])


def _threshold(bundles: Mapping[TaskName, Bundle], given: float | None) -> float:
    from .gate import shipped_threshold

    if given is not None:
        return given
    if "classification" not in bundles:
        raise UsageError(f"--triage needs a classification to gate with, got only {', '.join(bundles)}")
    return shipped_threshold(bundles["classification"])


def _without_plans(bundles: Mapping[TaskName, Bundle]) -> list[TaskName]:
    from .container_plans import without_plans

    return list(without_plans(bundles))


def _print_steps(steps: "Sequence[FilledStep]") -> None:
    table = Table("model", "runs", "engine", "precision", "threads", title="Model repository")
    for each in steps:
        step = each.step
        table.add_row(each.name, f"{step.bundle}/{step.file}", step.backend, step.precision, str(step.threads))
    out.print(table)


def _step_json(each: "FilledStep") -> dict[str, object]:
    step = each.step
    keys = ("bundle", "bundle_sha256", "graph", "file", "sha256", "backend", "precision", "threads", "max_batch")
    return {"model": each.name, **{key: getattr(step, key) for key in keys}}
