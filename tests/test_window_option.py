"""`--window -1350 150` is one value, and nothing else is touched."""

import pytest
from coronanet.window_option import join_window


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        (["a", "--window", "-1350", "150", "b"], ["a", "--window", "-1350 150", "b"]),
        (["--window", "lung", "150"], ["--window", "lung", "150"]),
        (["--window", "-1350", "b.png"], ["--window", "-1350", "b.png"]),
        (["--window", "-1350"], ["--window", "-1350"]),
        (["--window"], ["--window"]),
        (["--window=-1350", "150", "b"], ["--window", "-1350 150", "b"]),
        (["--window=-1350", "b.png"], ["--window", "-1350", "b.png"]),
        (["--windows=1", "2"], ["--windows=1", "2"]),
        (["--", "--window", "1", "2"], ["--", "--window", "1", "2"]),
    ],
)
def test_only_two_numbers_are_joined(given: list[str], joined: list[str]) -> None:
    assert join_window(given) == joined
