"""Every error that names a page finds its section in ``docs/errors.md``, and every section is about an error."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest
from coronanet.model.errors import CoronanetError, Page, RefusedError, UsageError

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ("benchmarks", "engines", "export", "model", "serving", "training")


def _sections() -> dict[str, str]:
    """The text of each section of the page, by the anchor that its heading gets."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)[1:]
    return {name.lower().replace(" ", "-"): body for name, body in zip(parts[::2], parts[1::2], strict=True)}


def _named() -> set[str]:
    """Every page that stands as a text in the source, besides the list of them all."""
    files = [*ROOT.glob("*.py"), *(file for folder in SOURCE for file in (ROOT / folder).rglob("*.py"))]
    return {
        node.value
        for file in files
        if file != ROOT / "model" / "errors.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    } & set(get_args(Page))


def test_the_sections_are_the_pages_that_errors_can_name() -> None:
    assert tuple(_sections()) == get_args(Page)


def test_every_section_has_an_error_that_names_it() -> None:
    # package-missing is named by MissingPackageError itself.
    assert _named() | {"package-missing"} == set(get_args(Page))


@pytest.mark.parametrize("page", get_args(Page))
def test_a_section_shows_the_message_its_cause_and_its_remedy(page: str) -> None:
    section = _sections()[page]
    assert re.match(r"\n+> \*", section)
    assert section.index("**Why.**") < section.index("**What mends it.**")


@pytest.mark.parametrize("kind", [CoronanetError, UsageError, RefusedError])
def test_the_line_ends_with_the_page(kind: type[CoronanetError]) -> None:
    assert str(kind("no", page="gate-refused")) == "no (docs/errors.md#gate-refused)"
    assert str(kind("no")) == "no"
