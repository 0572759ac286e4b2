"""The baseline that looks at borders and file formats alone, as a subject beside the networks on UCSD COVID-CT."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ...engines.bundle import hash_file
from ..ucsd import shortcuts
from ..ucsd.images import FOLDER, Part, ucsd_files
from ..ucsd.shortcuts import border_format_baseline
from .subjects import Decide, Subject

#: What stands for it on the command line, where a folder is expected otherwise.
SHORTCUTS = "shortcuts"
NAME = "border and format only"


def shortcut_subject(folder: Path, *, final: bool) -> Subject:
    """The baseline, fitted to the training part when it is started; its hash is that of its code."""
    code = Path(shortcuts.__file__)
    parts: tuple[Part, ...] = ("val", "test") if final else ("val",)

    @contextmanager
    def start() -> Generator[Decide]:
        asked = [file for part in parts for file in ucsd_files(folder, part, final=final)]
        answers = border_format_baseline(ucsd_files(folder, "train"), asked)
        probability = {file.path: answer for file, answer in zip(asked, answers, strict=True)}
        yield lambda case: np.asarray(probability[case.path])

    return Subject(
        kind="baseline",
        path=code,
        task="classification",
        name=NAME,
        runs_on="",
        sha256=hash_file(code),
        card_sha256="",
        threshold=0.5,
        labels=None,
        covers=lambda case: folder / FOLDER in case.path.parents,
        takes_views=False,
        start=start,
    )
