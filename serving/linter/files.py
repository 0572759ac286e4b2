"""Each model against its own files: names, types, axes, batch and versions."""

import json
import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ...model.errors import MissingPackageError, UsageError
from .faults import Fault
from .models import FILES, Model, type_name
from .signatures import DYNAMIC, Signature, Tensor, read_onnx, read_plan_header

STEP = "step.json"
#: The rule of a network without any plan, which other targets of the same repository may do without.
NO_PLAN = "no-plan"
CAPABILITY = re.compile(r"\d+\.\d")


def check_files(model: Model) -> Iterator[Fault]:
    """The faults of one model's configuration, versions and files."""
    if model.config.name and model.config.name != model.name:
        yield _fault(
            model,
            "model-name",
            f'it says name: "{model.config.name}", but its folder is {model.name}',
            f'write name: "{model.name}", or leave the name out',
        )
    yield from _check_versions(model)
    if model.is_ensemble:
        return
    yield from _check_warm_up(model)
    if not model.backend:
        yield _fault(model, "backend", "nothing says what runs it", 'add backend: "onnxruntime" (or tensorrt, python)')
    for version in model.served:
        yield from _check_version(model, version)


def _check_versions(model: Model) -> Iterator[Fault]:
    if not model.on_disk:
        what = "it has no version folder (a number, such as 1)"
        put = "" if model.is_ensemble else " with its model file in it"
        yield _fault(model, "no-version", what, f"make {model.name}/1/{put}")
        return
    if model.config.version_policy.WhichOneof("policy_choice") == "specific":
        wanted = set(model.config.version_policy.specific.versions)
        if missing := sorted(wanted - set(model.on_disk)):
            yield _fault(
                model,
                "version-missing",
                f"version_policy asks for {_list(missing)}, there are {_list(model.on_disk)}",
                f"make {model.name}/{missing[0]}/, or change the policy",
            )


def _check_warm_up(model: Model) -> Iterator[Fault]:
    """A model whose warm-up sample it refuses is never loaded, and without a batch size a sample is never run."""
    declared = {tensor.name: tensor for tensor in model.config.input}
    largest = max(1, model.config.max_batch_size)
    for sample in model.config.model_warmup if declared else ():
        wrong = [f"the input {name}, which it lacks" for name in sorted(sample.inputs.keys() - declared.keys())]
        needed = declared.keys() - sample.inputs.keys() - model.optional
        wrong += [f"nothing for the input {name}" for name in sorted(needed)]
        for name in sorted(sample.inputs.keys() & declared.keys()):
            given, tensor = sample.inputs[name], declared[name]
            fits = len(given.dims) == len(tensor.dims) and all(
                wanted in (DYNAMIC, size) for size, wanted in zip(given.dims, tensor.dims, strict=True)
            )
            if type_name(given) != type_name(tensor) or not fits:
                wrong.append(f"{name} as {type_name(given)} {list(given.dims)}")
        if not sample.batch_size:
            wrong.append("batch_size 0, for which Triton skips it")
        elif sample.batch_size > largest:
            wrong.append(f"batch_size {sample.batch_size}, more than {largest}")
        if wrong:
            yield _fault(
                model,
                "warm-up",
                f'the warm-up sample "{sample.name}" has {", ".join(wrong)}',
                "give it every input as it is declared, with a size for every axis, and a batch_size from 1 to "
                f"{largest}",
            )


def _check_version(model: Model, version: int) -> Iterator[Fault]:
    folder = model.version_folder(version)
    if model.backend == "tensorrt":
        yield from _check_plans(model, folder)
        return
    name = model.config.default_model_filename or FILES.get(model.backend, "")
    if not name:
        return
    file = folder / name
    if not file.exists():
        yield _missing(model, file)
        return
    if model.backend == "onnxruntime" and file.is_file():
        yield from _check_onnx(model, file)
    elif model.backend == "python" and (folder / STEP).is_file():
        yield from _check_step(model, folder)


def _check_step(model: Model, folder: Path) -> Iterator[Fault]:
    """A step of ours in the Python backend runs the ONNX file that its ``step.json`` names."""
    try:
        file = folder / Path(json.loads((folder / STEP).read_bytes())["file"]).name
    except (ValueError, KeyError, TypeError):
        yield _fault(
            model, "step-file", f"{STEP} names no file", "fill it again with `coronanet repository`", folder / STEP
        )
        return
    yield from _check_onnx(model, file) if file.is_file() else (_missing(model, file),)


def _check_onnx(model: Model, file: Path) -> Iterator[Fault]:
    try:
        signature = read_onnx(file)
    except MissingPackageError:
        raise
    except UsageError as error:
        yield _fault(model, "not-onnx", str(error), "put the exported network there", file)
        return
    yield from compare(model, signature, _relative(model, file))


def _check_plans(model: Model, folder: Path) -> Iterator[Fault]:
    config = model.config
    default = config.default_model_filename or FILES["tensorrt"]
    named = dict(config.cc_model_filenames)
    for capability, name in named.items():
        if not CAPABILITY.fullmatch(capability):
            yield _fault(
                model,
                "compute-capability",
                f'cc_model_filenames has the key "{capability}"',
                'write a compute capability as in "9.0"',
            )
        if not (folder / name).is_file():
            yield _missing(model, folder / name)
    there = sorted({name for name in (*named.values(), default) if (folder / name).is_file()})
    if not named and not there:
        yield _fault(
            model,
            NO_PLAN,
            f"there is no plan {_relative(model, folder / default)}, and cc_model_filenames names none",
            "build one with TensorRT on the server's GPU (trtexec, or `coronanet export --fp16 --tensorrt`)",
        )
    for name in there:
        yield from _check_plan(model, folder / name)
    # A plan's own tensors cannot be read without TensorRT and its GPU; the files it was built from often lie beside.
    beside = list(_faults_of_each(model, folder)) if there else []
    if beside and all(beside):
        yield from min(beside, key=len)


def _faults_of_each(model: Model, folder: Path) -> Iterator[list[Fault]]:
    for file in sorted(folder.glob("*.onnx")):
        yield list(_check_onnx(model, file))


def _check_plan(model: Model, file: Path) -> Iterator[Fault]:
    try:
        header = read_plan_header(file)
    except UsageError as error:
        yield _fault(model, "not-a-plan", str(error), "build it again with TensorRT", file)
        return
    if header.runtime != "tensorrt":
        yield _fault(
            model,
            "plan-runtime",
            f"a plan of TensorRT-RTX {header.version}, which Triton cannot run",
            "build it with TensorRT (trtexec, or `coronanet export --tensorrt` on the server's GPU)",
            file,
        )


def check_plan_versions(models: dict[str, Model]) -> Iterator[Fault]:
    """One Triton has one TensorRT, so all plans that it may load must be of one version."""
    found: dict[str, list[tuple[Model, Path]]] = {}
    for model in models.values():
        for file in plan_files(model):
            try:
                found.setdefault(read_plan_header(file).version, []).append((model, file))
            except UsageError:
                continue  # said already where the model was looked at
    if len(found) < 2:
        return
    most = max(found, key=lambda version: len(found[version]))
    for version in found.keys() - {most}:
        for model, file in found[version]:
            yield _fault(
                model,
                "plan-version",
                f"built by TensorRT {version}, but {_relative(*found[most][0])} by {most}",
                "a server has one TensorRT: build all plans with the one of its container",
                file,
            )


def plan_files(model: Model) -> list[Path]:
    """The plans that a model may load, of those that are there."""
    if model.backend != "tensorrt":
        return []
    names = {*model.config.cc_model_filenames.values(), model.config.default_model_filename or FILES["tensorrt"]}
    files = [model.version_folder(version) / name for version in model.served for name in sorted(names)]
    return [file for file in files if file.is_file()]


def compare(model: Model, signature: Signature, file: str) -> Iterator[Fault]:
    """What a configuration says that its model's file does not."""
    if not model.config.input and not model.config.output:
        return  # it leaves them to the file
    sides = (("input", model.config.input, signature.inputs), ("output", model.config.output, signature.outputs))
    for side, configured, in_file in sides:
        names = {tensor.name for tensor in configured}
        for tensor in configured:
            if tensor.name not in in_file:
                yield _fault(
                    model,
                    f"{side}-name",
                    f'it has the {side} "{tensor.name}", {file} has {_list(in_file)}',
                    _rename(tensor.name, in_file.keys() - names),
                )
            else:
                yield from _check_tensor(model, side, tensor, in_file[tensor.name], file)
        # A model may keep outputs to itself, but must be fed; as many as have a wrong name are there.
        missing = sorted(in_file.keys() - names) if side == "input" else []
        for name in missing[len(names - in_file.keys()) :]:
            yield _fault(
                model,
                "input-missing",
                f'{file} needs the input "{name}" ({in_file[name]}), which it does not have',
                f"add it to {model.config_file}",
            )


def _check_tensor(model: Model, side: str, tensor: Any, in_file: Tensor, file: str) -> Iterator[Fault]:
    where = f'{side} "{tensor.name}"'
    dtype = type_name(tensor)
    if dtype != in_file.dtype:
        yield _fault(
            model,
            "dtype",
            f"{where} is {dtype}, in {file} it is {in_file.dtype}",
            f"write data_type: TYPE_{in_file.dtype}",
        )
    dims = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)
    axes = in_file.shape
    if axes is None:
        return
    if model.config.max_batch_size > 0:
        if axes and axes[0] != DYNAMIC:
            yield _fault(
                model,
                "batch",
                f"max_batch_size is {model.config.max_batch_size}, but {where} in {file} has {axes[0]} for its first "
                "axis, of one size",
                "export it with a dynamic batch axis, or write max_batch_size: 0 and every axis in dims",
            )
        axes = axes[1:]
    fits = len(dims) == len(axes) and all(size in (DYNAMIC, wanted) for size, wanted in zip(axes, dims, strict=True))
    if not fits:
        batched = " behind the batch" if model.config.max_batch_size > 0 else ""
        yield _fault(
            model,
            "dims",
            f"{where} has dims {list(dims)}, in {file} its axes{batched} are {list(axes)}",
            f"write dims: {list(axes)}",
        )


def _missing(model: Model, file: Path) -> Fault:
    there = sorted(path.name for path in file.parent.iterdir()) if file.parent.is_dir() else []
    close = get_close_matches(file.name, there, n=1)
    remedy = f"put it there, or name {close[0]} as default_model_filename" if close else "put it there"
    return _fault(model, "missing-file", f"there is no {_relative(model, file)}", remedy)


def _rename(name: str, others: Collection[str]) -> str:
    close = list(others) if len(others) == 1 else get_close_matches(name, others, n=1, cutoff=0.3)
    return f'write name: "{close[0]}"' if close else "take it out, or export the network with it"


def _relative(model: Model, file: Path) -> str:
    return file.relative_to(model.folder.parent).as_posix()


def _fault(model: Model, rule: str, what: str, remedy: str, file: Path | None = None) -> Fault:
    return Fault(rule, model.name, _relative(model, file) if file else model.config_file, what, remedy)


def _list(items: Any) -> str:
    return ", ".join(map(str, items)) or "none"
