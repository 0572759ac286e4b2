"""Why a runtime cannot load or run an ONNX file: the one sentence of its report that says so, and the page that tells
more."""

import re
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import Page, UsageError


@dataclass(frozen=True)
class Sign:
    """What a runtime writes, as a regular expression of the sentence to keep, and the page that is about it."""

    sentence: str
    page: Page


#: As ONNX Runtime 1.32 and OpenVINO 2026.4 write them. Memory first: whatever else they say follows from it.
SIGNS = (
    Sign(
        r"Failed to allocate memory.*|std::bad_alloc|MemoryError|Cannot allocate memory|CUDA failure 2: out of memory"
        r"|CU\w+_STATUS_ALLOC_FAILED",
        page="out-of-memory",
    ),
    Sign(r"Unsupported model IR version.*|Opset \d+ is under development", page="opset"),
    Sign(
        r"Could not find an implementation for .*|No Op registered for .*|\S+ is not a registered function/op"
        r"|No conversion rule found for operations: .*|Conversion is failed for: .*",
        page="unsupported-operator",
    ),
    Sign(r"Protobuf parsing failed|No graph was found in the protobuf|Unable to read the model", page="corrupted-file"),
)


def first_line(error: Exception) -> str:
    """The first line of what an error says, its kind where it says nothing: a runtime's reports run over many."""
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__


def cannot_load(runtime: str, path: Path, error: Exception) -> UsageError:
    """The error for a file that ``runtime`` refused with ``error``, whose reports run over lines and source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said, page = _sentence(error, otherwise=lines[-1] if lines else type(error).__name__)
    return UsageError(f"{runtime} cannot load {path}: {said}", page=page)


class CannotRunError(UsageError):
    """A runtime failed on a batch that fits its network: a matter of the machine, not of who asked."""


def cannot_run(runtime: str, batch: int, error: Exception) -> CannotRunError:
    """The error for a batch on which ``runtime`` failed with ``error``."""
    said, page = _sentence(error, otherwise=first_line(error))
    return CannotRunError(f"{runtime} cannot run this batch of {batch}: {said}", page=page)


def _sentence(error: Exception, *, otherwise: str) -> tuple[str, Page | None]:
    """The sentence of a sign and its page, where the error bears one."""
    said = str(error) or type(error).__name__
    for sign in SIGNS:
        if found := re.search(sign.sentence, said):
            return found[0].strip(), sign.page
    return otherwise, None
