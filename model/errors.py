"""The two ways a command can fail, each with its exit code."""

from typing import Literal

#: The sections of ``docs/errors.md``, by their anchors.
Page = Literal[
    "no-profile",
    "opset",
    "unsupported-operator",
    "plan-version",
    "wrong-gpu",
    "out-of-memory",
    "corrupted-file",
    "calibration-data",
    "gate-refused",
    "package-missing",
    "int32-bias",
    "no-gpu",
]


class CoronanetError(Exception):
    """A failure whose message is the whole story: what was expected, what came, what mends it.

    Args:
        message: that story, in one line.
        page: the section of ``docs/errors.md`` that tells more; the line ends with its name.
    """

    exit_code = 2

    def __init__(self, message: str, *, page: Page | None = None) -> None:
        super().__init__(message if page is None else f"{message} (docs/errors.md#{page})")


class UsageError(CoronanetError):
    """Wrong use, unreadable input, or things that cannot be compared (exit code 2)."""


class RefusedError(CoronanetError):
    """A verdict is no: a gate, a hash, a signature or a linter said so (exit code 1)."""

    exit_code = 1


class MissingPackageError(UsageError):
    """A package that a feature needs is not installed.

    Args:
        package: what cannot be imported, e.g. ``"openvino"``.
        purpose: what it is for, e.g. ``"the OpenVINO engine"``.
        extra: the extra of this project that brings it, e.g. ``"cpu"``.
        install: the command that brings it, where no extra does.
    """

    def __init__(self, package: str, *, purpose: str, extra: str = "", install: str = "") -> None:
        remedy = install or f"pip install 'coronanet[{extra}]'"
        super().__init__(f"{purpose} needs {package}, which is not installed: {remedy}", page="package-missing")
        self.package = package
