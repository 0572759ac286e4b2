"""A model repository as it stands on disk: each model's configuration, versions and tensors."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.text_format import ParseError

from ...model.errors import UsageError
from ..triton_config import parse_config
from .faults import Fault
from .signatures import DYNAMIC, Tensor

CONFIG = "config.pbtxt"
CONFIGS = "configs"
#: The backend behind each of Triton's older ``platform`` names.
PLATFORMS = {
    "ensemble": "ensemble", "tensorrt_plan": "tensorrt", "onnxruntime_onnx": "onnxruntime",
    "pytorch_libtorch": "pytorch", "tensorflow_savedmodel": "tensorflow", "tensorflow_graphdef": "tensorflow",
}  # fmt: skip
#: What each backend loads unless ``default_model_filename`` says otherwise.
FILES = {
    "onnxruntime": "model.onnx", "tensorrt": "model.plan", "python": "model.py", "pytorch": "model.pt",
    "openvino": "model.xml",
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model of the repository.

    Attributes:
        name: its folder.
        folder: where that is.
        config_file: the configuration that counts, relative to the repository.
        config: the parsed ``ModelConfig``.
        backend: what runs it; empty where nothing tells.
        inputs: as its configuration has them, the batch axis first where it batches; None where it leaves them to its
            file, whose tensors take their place.
        outputs: likewise.
        max_batch: 0 where it does not batch, None where it leaves that to its file.
        on_disk: its version folders.
        served: those that its version policy takes.
    """

    name: str
    folder: Path
    config_file: str
    config: Any
    backend: str
    inputs: dict[str, Tensor] | None
    outputs: dict[str, Tensor] | None
    max_batch: int | None
    on_disk: tuple[int, ...]
    served: tuple[int, ...]

    @property
    def is_ensemble(self) -> bool:
        return self.backend == "ensemble"

    @property
    def optional(self) -> set[str]:
        """The inputs that a request may leave out."""
        return {tensor.name for tensor in self.config.input if tensor.optional}

    def version_folder(self, version: int) -> Path:
        return self.folder / str(version)


def read_models(repository: Path, config_name: str | None) -> tuple[dict[str, Model], list[Fault]]:
    """Every model of a repository as a server started with ``--model-config-name CONFIG_NAME`` would read it.

    Raises:
        UsageError: ``repository`` is not a folder with models.
    """
    if not repository.is_dir():
        raise UsageError(f"no folder {repository}: expected a Triton model repository")
    folders = [each for each in sorted(repository.iterdir()) if each.is_dir() and _is_model(each)]
    if not folders:
        raise UsageError(f"no model in {repository}: expected folders with a {CONFIG} or a numbered version folder")
    models: dict[str, Model] = {}
    faults: list[Fault] = []
    for folder in folders:
        found = _read(folder, config_name)
        if isinstance(found, Fault):
            faults.append(found)
        else:
            models[folder.name] = found
    return models, faults


def target_names(repository: Path) -> tuple[str, ...]:
    """The names that any model has a ``configs/NAME.pbtxt`` for."""
    return tuple(sorted({path.stem for path in repository.glob(f"*/{CONFIGS}/*.pbtxt")}))


def _is_model(folder: Path) -> bool:
    if folder.name.startswith("."):
        return False
    return (folder / CONFIG).is_file() or (folder / CONFIGS).is_dir() or bool(_versions(folder))


def _versions(folder: Path) -> tuple[int, ...]:
    """The version folders: names that are numbers, not beginning with 0, as Triton takes them."""
    numbers = (each.name for each in folder.iterdir() if each.is_dir() and each.name.isascii() and each.name.isdigit())
    return tuple(sorted(int(name) for name in numbers if not name.startswith("0")))


def _read(folder: Path, config_name: str | None) -> Model | Fault:
    path = folder / CONFIG
    if config_name is not None and (own := folder / CONFIGS / f"{config_name}.pbtxt").is_file():
        path = own
    file = path.relative_to(folder.parent).as_posix()
    try:
        config: Any = parse_config(path.read_text(encoding="utf-8") if path.is_file() else "")
    except (ParseError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        return Fault(
            "config-syntax", folder.name, file, f"not a model configuration ({reason})", "mend what stands there"
        )
    if outside := [name for name in _file_names(config) if Path(name).is_absolute() or ".." in Path(name).parts]:
        return Fault(
            "outside-file",
            folder.name,
            file,
            f"it names the model file {outside[0]}, which is not in the model's version folder",
            f"put the file into {folder.name}/1/, or another version, and write its name alone",
        )
    on_disk = _versions(folder)
    left_to_file = not config.input and not config.output
    max_batch: int | None = None if left_to_file and not config.max_batch_size else config.max_batch_size
    return Model(
        name=folder.name,
        folder=folder,
        config_file=file,
        config=config,
        backend=_backend(config, folder, on_disk),
        inputs=None if left_to_file else _declared(config.input, config.max_batch_size),
        outputs=None if left_to_file else _declared(config.output, config.max_batch_size),
        max_batch=max_batch,
        on_disk=on_disk,
        served=_served(config, on_disk),
    )


def _file_names(config: Any) -> tuple[str, ...]:
    return (config.default_model_filename, *config.cc_model_filenames.values())


def _backend(config: Any, folder: Path, versions: Iterable[int]) -> str:
    if config.WhichOneof("scheduling_choice") == "ensemble_scheduling":
        return "ensemble"
    if config.backend:
        return str(config.backend)
    if config.platform:
        return PLATFORMS.get(str(config.platform), str(config.platform))
    there = {path.name for version in versions for path in (folder / str(version)).iterdir()}
    there.add(config.default_model_filename)
    suffixes = {Path(file).suffix: backend for backend, file in FILES.items()}
    guesses = {suffixes[Path(name).suffix] for name in there if Path(name).suffix in suffixes}
    return guesses.pop() if len(guesses) == 1 else ""


def _served(config: Any, on_disk: tuple[int, ...]) -> tuple[int, ...]:
    match config.version_policy.WhichOneof("policy_choice"):
        case "all":
            return on_disk
        case "specific":
            return tuple(sorted(set(config.version_policy.specific.versions) & set(on_disk)))
        case _:
            count = config.version_policy.latest.num_versions or 1
            return on_disk[-count:]


def _declared(tensors: Any, max_batch: int) -> dict[str, Tensor]:
    """What a caller of the model sees: the axes of ``dims``, behind the batch where the model batches."""
    lead = (DYNAMIC,) if max_batch > 0 else ()
    return {each.name: Tensor(each.name, type_name(each), (*lead, *each.dims)) for each in tensors}


def type_name(tensor: Any) -> str:
    """Triton's name of the type of a configured tensor, such as ``FP32``."""
    enum = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type
    return enum.values_by_number[tensor.data_type].name.removeprefix("TYPE_")
