"""Which nodes must stay in a higher precision: the fewest, found by trying.

The nodes are ordered by how far the answer moves when one of them alone is int8. The shortest beginning of that order
that passes is found by doubling and halving, and then every node of it is let go that turns out not to be needed.
"""

import json
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from ..model.errors import RefusedError

#: A network that must keep more of its nodes than this is no int8 network.
MOST_KEPT = 0.5

#: Why the network is refused with these nodes kept; an empty text where it passes.
Try = Callable[[Collection[str]], str]


class Trials:
    """What was tried, kept in a file so that a search that was stopped goes on where it was."""

    def __init__(self, path: Path, attempt: Try) -> None:
        self._path = path
        self._attempt = attempt
        self._known = _read(path)

    def reason(self, kept: Collection[str]) -> str:
        """Why the network is refused with ``kept``; an empty text where it passes."""
        key = " ".join(sorted(kept))
        if key not in self._known:
            self._known[key] = self._attempt(kept)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            work = self._path.with_name(f"{self._path.name}.{os.getpid()}")
            work.write_text(json.dumps(self._known), encoding="utf-8")
            work.replace(self._path)
        return self._known[key]


def _read(path: Path) -> dict[str, str]:
    """The trials of a file; none where it is not there or damaged."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}


def find_kept(order: Sequence[str], reason: Try) -> tuple[str, ...]:
    """The nodes to keep, the most sensitive first.

    Args:
        order: every node that can be int8, the most sensitive first.
        reason: tries a choice.

    Raises:
        RefusedError: more than ``MOST_KEPT`` of the nodes would have to be kept.
    """
    most = int(len(order) * MOST_KEPT)
    low, high = -1, 0
    while why := reason(order[:high]):
        if high == most:
            raise RefusedError(
                f"int8 does not pass its gates even with the {most} most sensitive of {len(order)} nodes in float32: "
                f"{why}"
            )
        low, high = high, min(max(1, 2 * high), most)
    while high - low > 1:
        middle = (low + high) // 2
        if reason(order[:middle]):
            low = middle
        else:
            high = middle
    kept = list(order[:high])
    for name in reversed(order[: max(0, high - 1)]):
        fewer = [other for other in kept if other != name]
        if not reason(fewer):
            kept = fewer
    return tuple(kept)
