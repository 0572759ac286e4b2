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
        r"Failed to allocate memory.*|std::bad_alloc|Cannot allocate memory|CUDA failure 2: out of memory"
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
    return _told(f"{runtime} cannot load {path}", error, otherwise=lines[-1] if lines else type(error).__name__)


def cannot_run(runtime: str, batch: int, error: Exception) -> UsageError:
    """The error for a batch on which ``runtime`` failed with ``error``."""
    return _told(f"{runtime} cannot run this batch of {batch}", error, otherwise=first_line(error))


def _told(action: str, error: Exception, *, otherwise: str) -> UsageError:
    """``action`` with the sentence of a sign, where the error bears one."""
    for sign in SIGNS:
        if found := re.search(sign.sentence, str(error)):
            return UsageError(f"{action}: {found[0].strip()}", page=sign.page)
    return UsageError(f"{action}: {otherwise}")
