"""Names and bounds of windows."""

import pytest
from coronanet.model.errors import UsageError
from coronanet.model.readers import parse_window


@pytest.mark.parametrize("text", ["lung", "Lung ", "-1350 150", "-1350,150", "-1350.0  150"])
def test_a_window_has_a_name_or_two_bounds(text: str) -> None:
    window = parse_window(text)
    assert (window.low_hu, window.high_hu) == (-1350.0, 150.0)


@pytest.mark.parametrize("text", ["", "brain", "-1350", "150 -1350", "1 2 3", "nan 5", "-1e9 150"])
def test_anything_else_is_refused_with_what_was_expected(text: str) -> None:
    with pytest.raises(UsageError, match="--window -1350 150"):
        parse_window(text)
