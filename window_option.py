"""`--window` of every verb that reads 8-bit pictures."""

from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand

WINDOW = "--window"


class WindowCommand(TyperCommand):
    """Lets ``--window`` take either a name or two numbers, of which the first is mostly negative."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, join_window(args))


def join_window(arguments: list[str]) -> list[str]:
    """``--window -1350 150``, or ``--window=-1350 150``, as the one value ``-1350 150``; everything else as it is."""
    joined: list[str] = []
    rest: Iterator[str] = iter(arguments)
    for argument in rest:
        option, equals, value = argument.partition("=")
        joined.append(option if option == WINDOW else argument)
        if argument == "--":
            break
        if option == WINDOW and (low := value if equals else next(rest, None)) is not None:
            high = next(rest, None) if _is_number(low) else None
            if high is not None and _is_number(high):
                joined.append(f"{low} {high}")
            else:
                joined += [low] if high is None else [low, high]
    return [*joined, *rest]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
