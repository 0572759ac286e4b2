"""The model repository as one run of the server sees it: hard links to what was there when it started.

A repository that is filled again under a running server changes nothing for it until it is restarted, and a model can
be marked as changed, so that Triton loads it again, also where the repository itself is read-only.
"""

import os
import shutil
from pathlib import Path

from .repository import MODEL, VERSION

NAME = "models"


def take_snapshot(repository: Path, run: Path) -> Path:
    """The folder in ``run`` that has every model of ``repository``; files that cannot be linked are copied.

    Raises:
        OSError: a file cannot be read, or the disk is full.
    """
    snapshot = run / NAME
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    shutil.copytree(repository, snapshot, copy_function=_link, ignore=ignored)
    for code in snapshot.glob(f"*/*/{MODEL}"):
        # Python writes bytecode beside a model's code, and Triton would take that for a change of the model: a file
        # under the name of the folder is what prevents it, since model processes read no environment variables.
        code.with_name("__pycache__").touch()
    return snapshot


def mark_changed(snapshot: Path, model: str) -> None:
    """Let the server's next look at ``snapshot`` find that a model was changed."""
    os.utime(snapshot / model / VERSION / MODEL)


def _link(source: str, target: str) -> None:
    # The one file whose time `mark_changed` changes is the run's own.
    if Path(source).name != MODEL:
        try:
            os.link(os.path.realpath(source), target)
            return
        except OSError:  # another file system, or another user's file
            pass
    shutil.copy(source, target)
