"""The index of a filled model repository: the files of its models, and whether they are still those."""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import ValidationError, field_validator

from ...engines.bundle import hash_file
from ...model.card import StrictModel, explain
from ...model.tasks import ENSEMBLE, TaskName
from ..step import REMEDY
from .faults import Fault

VERSION = "1"
#: The file of the index, relative to the repository.
INDEX = f"{ENSEMBLE}/{VERSION}/repository.json"


class RepositoryIndex(StrictModel):
    """``coronanet/1/repository.json``, written last: the repository is whole, and this is what it has.

    ``files`` maps every other file of its models, by its path in the repository, to its SHA-256: configurations of
    every target, code, steps, networks and plans. ``bundles`` maps a task to its bundle's. A server of it needs a
    response cache of ``response_cache_mib`` MiB.
    """

    schema_version: Literal[4] = 4
    files: dict[str, str]
    bundles: dict[TaskName, str]
    response_cache_mib: int = 0

    @field_validator("files")
    @classmethod
    def _is_inside(cls, files: dict[str, str]) -> dict[str, str]:
        if outside := [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]:
            raise ValueError(f"{outside[0]} is not in the repository")
        return files


def check_index(repository: Path) -> Iterator[Fault]:
    """What differs from the index: files that were changed or are missing, and whatever was added to its models.

    Nothing where there is no index: then `coronanet repository` did not fill it, or not to its end. Files beside the
    models' folders, which Triton does not read, may be there.
    """
    path = repository / INDEX
    if not path.is_file():
        return
    try:
        index = RepositoryIndex.model_validate_json(path.read_bytes())
    except ValidationError as error:
        yield _fault(INDEX, "index", f"is not valid ({explain(error)})", REMEDY)
        return
    for name, sha256 in index.files.items():
        file = repository / name
        if not file.is_file() or hash_file(file) != sha256:
            yield _fault(name, "changed-file", "is missing or was changed", REMEDY)
    known = {PurePosixPath(name) for name in (*index.files, INDEX)}
    known |= {folder for name in known for folder in name.parents}
    models = (each for each in repository.iterdir() if each.is_dir())
    for added in _added(repository, models, known):
        here = sorted(each.name for each in known if each.parent == added.parent and each != added.parent)
        yield _fault(
            str(added),
            "added-file",
            f"was not put there by `coronanet repository`: expected only {', '.join(here)}",
            "move it out of the repository",
        )


def _added(repository: Path, there: Iterable[Path], known: set[PurePosixPath]) -> Iterator[PurePosixPath]:
    """Files and whole folders that are not ``known``, without what is in such a folder."""
    for each in sorted(there):
        name = PurePosixPath(each.relative_to(repository).as_posix())
        if name not in known:
            yield name
        elif each.is_dir():
            yield from _added(repository, each.iterdir(), known)


def _fault(name: str, rule: str, what: str, remedy: str) -> Fault:
    return Fault(rule, PurePosixPath(name).parts[0], name, what, remedy)
