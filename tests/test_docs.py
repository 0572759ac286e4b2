"""What the pages say is true: their verbs and options exist, and their links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from coronanet import cli
from coronanet.engines.doctor import VERBS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
COMMAND = re.compile(r"(?:^|`)(coronanet [a-z][^`\n]*)", re.MULTILINE)


def _commands() -> Iterator[str]:
    for page in PAGES:
        for found in COMMAND.finditer(page.read_text(encoding="utf-8")):
            yield found[1]


def _verb(words: list[str]) -> list[str]:
    return words[1:3] if words[1] == "bench" else words[1:2]


@pytest.mark.parametrize("command", sorted(set(_commands())))
def test_every_command_in_the_pages_exists_with_its_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)
    verb = _verb(words)
    assert " ".join(verb) in VERBS
    with pytest.raises(SystemExit) as stopped:
        cli.main([*verb, "--help"])
    assert not stopped.value.code, f"there is no verb {' '.join(verb)}"
    shown = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", shown), f"{' '.join(verb)} has no {option}"


def test_the_readme_shows_every_verb() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"coronanet {verb.partition(' --')[0]}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_make_target_in_the_readme_exists() -> None:
    named = set(re.findall(r"make ([a-z]+)\b", (ROOT / "README.md").read_text(encoding="utf-8")))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert named & {"demo", "test", "setup", "check"}
    assert named <= targets
