"""A linter for Triton model repositories, ours or anybody's: what would fail, hang or lie once it is served."""

from .faults import Fault
from .lint import lint_repository

__all__ = ["Fault", "lint_repository"]
