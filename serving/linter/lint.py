"""The whole linter: what a server would read, looked at without starting one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ...model.errors import MissingPackageError, UsageError
from .faults import Fault
from .files import check_files, check_plan_versions
from .filled import check_index
from .graph import check_graph, check_recursion, check_scheduling
from .models import CONFIGS, Model, read_models, target_names
from .signatures import DYNAMIC, read_onnx


def lint_repository(repository: Path, config_name: str | None = None) -> list[Fault]:
    """What is wrong with a repository as a server started with ``--model-config-name CONFIG_NAME`` would read it.

    Nothing is started, loaded or changed. A model that leaves its tensors to its ONNX file takes them from there.

    Args:
        repository: the folder that Triton mounts.
        config_name: None for ``config.pbtxt``.

    Raises:
        MissingPackageError: onnx is not installed and a model is an ONNX file.
        UsageError: ``repository`` is not a folder with models.
    """
    models, faults = read_models(repository, config_name)
    unread = {fault.model for fault in faults}
    models = {name: _complete(model) for name, model in models.items()}
    faults += _check_target(repository, models, config_name)
    for model in models.values():
        faults += check_files(model)
    faults += check_plan_versions(models)
    for model in models.values():
        if model.is_ensemble:
            # A model that could not be read is there, but nothing is known of it.
            faults += (fault for fault in check_graph(model, models) if not _is_about(fault, unread))
    return [*faults, *check_recursion(models), *check_scheduling(models), *check_index(repository)]


def _check_target(repository: Path, models: Mapping[str, Model], config_name: str | None) -> Iterator[Fault]:
    if config_name is None:
        return
    if config_name not in (names := target_names(repository)):
        known = ", ".join(names) or "none"
        raise UsageError(f"no model of {repository} has {CONFIGS}/{config_name}.pbtxt: expected one of {known}")
    for model in models.values():
        path = f"{model.name}/{CONFIGS}/{config_name}.pbtxt"
        if model.config_file != path:
            yield Fault(
                "missing-target",
                model.name,
                path,
                f"it is missing, so --model-config-name={config_name} silently reads {model.config_file}",
                f"write it, as the others have {CONFIGS}/{config_name}.pbtxt",
            )


def _complete(model: Model) -> Model:
    """The model with the tensors of its ONNX file, where its configuration leaves them to it."""
    if model.inputs is not None or model.backend != "onnxruntime" or not model.served:
        return model
    file = model.version_folder(model.served[-1]) / (model.config.default_model_filename or "model.onnx")
    try:
        signature = read_onnx(file)
    except MissingPackageError:
        raise
    except UsageError:
        return model  # said where the file is looked at

    first = next((each.shape[0] for each in signature.inputs.values() if each.shape), 0)
    max_batch = model.max_batch if model.max_batch is not None or first == DYNAMIC else 0
    return replace(model, inputs=signature.inputs, outputs=signature.outputs, max_batch=max_batch)


def _is_about(fault: Fault, unread: set[str]) -> bool:
    return fault.rule == "missing-model" and any(f'"{name}"' in fault.what for name in unread)
