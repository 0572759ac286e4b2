"""How every verb speaks: people read tables on stderr and stdout, programs read one JSON object on stdout."""

import json
import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

#: For people and progress: everything that is not the answer.
err = Console(stderr=True, highlight=False)
#: For the answer. A pipe or a file has no width, so tables get room for every column there.
out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr.")]


def emit_json(value: dict[str, Any]) -> None:
    """Print the one object that ``--json`` promises."""
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def warn(message: str) -> None:
    """One line that a person should see and that does not change the exit code."""
    err.print(Text.assemble(("warning: ", "yellow"), message), soft_wrap=True)


def fail(message: str) -> str:
    """One line that says why a verb ends without success; returns that line."""
    line = " ".join(message.split())
    err.print(Text.assemble(("error: ", "red"), line), soft_wrap=True)
    return line
