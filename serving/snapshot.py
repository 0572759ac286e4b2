"""The model repository as one run of the server sees it: a copy of what was there when it started.

A repository that is filled again, or damaged, under a running server changes nothing for it until it is restarted, and
a model can be marked as changed, so that Triton loads it again, also where the repository itself is read-only. Links
would not do: Triton takes a link that another run makes or removes for a change of the model.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from ..engines.bundle import hash_file
from ..model.errors import RefusedError
from .linter.filled import INDEX, VERSION, RepositoryIndex
from .provenance import tell
from .repository import CONFIG, MODEL
from .step import STEP
from .triton_config import parse_config

NAME = "models"
#: What only the servers in containers read.
NETWORKS = (".onnx", ".plan")


def take_snapshot(repository: Path, index: RepositoryIndex, run: Path) -> Path:
    """The folder in ``run`` that has the files of ``index``, without the networks for servers in containers, and with
    what each network is in its configuration.

    Raises:
        OSError: a file cannot be read, or the disk is full.
        RefusedError: a file was changed since ``index`` was read.
    """
    snapshot = run / NAME
    for name in (INDEX, *index.files):
        if not _is_read(repository / name):
            continue
        copy = snapshot / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repository / name, copy)
        if name != INDEX and hash_file(copy) != index.files[name]:
            raise RefusedError(f"{repository / name} was changed while the server started: start it again")
    for code in snapshot.glob(f"*/*/{MODEL}"):
        # Python writes bytecode beside a model's code, and Triton would take that for a change of the model: a file
        # under the name of the folder is what prevents it, since model processes read no environment variables.
        code.with_name("__pycache__").touch()
    tell(snapshot)
    return snapshot


def count_instances(snapshot: Path) -> dict[str, int]:
    """How many processes the server runs for each model; an ensemble has none."""
    configs: dict[str, Any] = {
        path.parent.name: parse_config(path.read_text(encoding="utf-8")) for path in snapshot.glob(f"*/{CONFIG}")
    }
    counts = {name: sum(group.count for group in config.instance_group) for name, config in configs.items()}
    return {name: count for name, count in counts.items() if count}


def mark_changed(snapshot: Path, model: str) -> None:
    """Let the server's next look at ``snapshot`` find that a model was changed."""
    os.utime(snapshot / model / VERSION / MODEL)


def _is_read(file: Path) -> bool:
    """Whether the embedded server reads a file: of the networks of a step, the one that it names."""
    if file.suffix not in NETWORKS:
        return True
    step: dict[str, object] = json.loads(file.with_name(STEP).read_bytes())
    return file.name == step["file"]
