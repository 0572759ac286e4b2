"""The model repository as one run of the server sees it: a copy of what was there when it started.

A repository that is filled again, or damaged, under a running server changes nothing for it until it is restarted, and
a model can be marked as changed, so that Triton loads it again, also where the repository itself is read-only. Links
would not do: Triton takes a link that another run makes or removes for a change of the model.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from .repository import MODEL, VERSION
from .step import STEP

NAME = "models"
#: What only the servers in containers read.
NETWORKS = (".onnx", ".plan")


def take_snapshot(repository: Path, run: Path) -> Path:
    """The folder in ``run`` that has every model of ``repository``, without the networks for servers in containers.

    Raises:
        OSError: a file cannot be read, or the disk is full.
    """
    snapshot = run / NAME
    shutil.copytree(repository, snapshot, copy_function=shutil.copy, ignore=_ignored)
    for code in snapshot.glob(f"*/*/{MODEL}"):
        # Python writes bytecode beside a model's code, and Triton would take that for a change of the model: a file
        # under the name of the folder is what prevents it, since model processes read no environment variables.
        code.with_name("__pycache__").touch()
    return snapshot


def mark_changed(snapshot: Path, model: str) -> None:
    """Let the server's next look at ``snapshot`` find that a model was changed."""
    os.utime(snapshot / model / VERSION / MODEL)


def _ignored(folder: str, names: Iterable[str]) -> set[str]:
    ignored = {name for name in names if name == "__pycache__" or name.startswith(".")}
    step = Path(folder) / STEP
    if step.is_file():
        used: object = json.loads(step.read_bytes()).get("file")
        ignored |= {name for name in names if name.endswith(NETWORKS) and name != used}
    return ignored
