"""The search finds the fewest nodes to keep, says why it cannot, and goes on where it was stopped."""

from collections.abc import Collection
from pathlib import Path

import pytest
from coronanet.export.mixed_precision import Trials, find_kept
from coronanet.model.errors import RefusedError

ORDER = [f"node{number}" for number in range(20)]


def needs(*names: str) -> tuple[list[frozenset[str]], object]:
    tried: list[frozenset[str]] = []

    def reason(kept: Collection[str]) -> str:
        tried.append(frozenset(kept))
        missing = [name for name in names if name not in kept]
        return f"without {missing[0]} the Dice falls" if missing else ""

    return tried, reason


@pytest.mark.parametrize("needed", [(), ("node0",), ("node2",), ("node0", "node5"), ("node1", "node3", "node9")])
def test_it_finds_exactly_the_nodes_that_are_needed(needed: tuple[str, ...]) -> None:
    tried, reason = needs(*needed)
    assert find_kept(ORDER, reason) == needed  # pyright: ignore[reportArgumentType]
    assert len(tried) <= 20


def test_where_half_of_the_nodes_are_not_enough_it_says_why() -> None:
    _, reason = needs("node15")
    with pytest.raises(RefusedError, match="10 most sensitive of 20 nodes in float32: without node15 the Dice falls"):
        find_kept(ORDER, reason)  # pyright: ignore[reportArgumentType]


def test_a_search_that_was_stopped_tries_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "searches" / "log.json"
    tried: list[frozenset[str]] = []

    def attempt(kept: Collection[str]) -> str:
        if len(tried) == 3:
            raise KeyboardInterrupt
        tried.append(frozenset(kept))
        return "" if {"node0", "node4"} <= set(kept) else "no"

    with pytest.raises(KeyboardInterrupt):
        find_kept(ORDER, Trials(path, attempt).reason)
    before = list(tried)
    tried.clear()
    tried_again: list[frozenset[str]] = []

    def go_on(kept: Collection[str]) -> str:
        tried_again.append(frozenset(kept))
        return "" if {"node0", "node4"} <= set(kept) else "no"

    assert find_kept(ORDER, Trials(path, go_on).reason) == ("node0", "node4")
    assert not set(before) & set(tried_again)
