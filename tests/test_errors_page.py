"""Every error that names a page finds its section in ``docs/errors.md``, and every section is about an error."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from coronanet.model.errors import CoronanetError, Page, RefusedError, UsageError

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ("benchmarks", "engines", "export", "model", "serving", "training")
#: Sections whose errors are yet to be raised; one that is raised must leave this list.
AWAITED = {"no-profile", "plan-version", "wrong-gpu", "out-of-memory", "calibration-data"}


def _sections() -> dict[str, str]:
    """The text of each section of the page, by the anchor that its heading gets."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {name.lower().replace(" ", "-"): body for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _raised() -> set[str]:
    """Every ``page="…"`` in the source."""
    files = [*ROOT.glob("*.py"), *(file for folder in SOURCE for file in (ROOT / folder).rglob("*.py"))]
    return {
        keyword.value.value
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "page" and isinstance(keyword.value, ast.Constant) and isinstance(keyword.value.value, str)
    }


def test_the_sections_are_the_pages_that_errors_can_name() -> None:
    assert tuple(_sections()) == get_args(Page)


def test_every_section_has_an_error_that_names_it() -> None:
    raised = _raised()
    assert raised | AWAITED == set(get_args(Page))
    assert raised & AWAITED == set(), "no longer awaited"


@pytest.mark.parametrize("page", get_args(Page))
def test_a_section_shows_the_message_its_cause_and_its_remedy(page: str) -> None:
    section = _sections()[page]
    assert re.match(r"\n+> \*", section)
    assert section.index("**Why.**") < section.index("**What mends it.**")


@pytest.mark.parametrize("kind", [CoronanetError, UsageError, RefusedError])
def test_the_line_ends_with_the_page(kind: type[CoronanetError]) -> None:
    assert str(kind("no", page="gate-refused")) == "no (docs/errors.md#gate-refused)"
    assert str(kind("no")) == "no"
