"""What the linter finds."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        rule: a short name for the kind of fault, such as ``missing-model``.
        model: the model that must be changed.
        file: what to change, relative to the repository.
        what: what is there and what was expected.
        remedy: what to change.
    """

    rule: str
    model: str
    file: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}: {self.remedy} [{self.rule}]"
