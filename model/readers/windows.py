"""The windows that 8-bit images can be read with: what grey 0 and grey 255 stand for, in Hounsfield units."""

from pydantic import ValidationError

from ..card import Window, explain
from ..errors import UsageError

#: Width 1500 at level -600, and width 400 at level 40: the two that chest CT is looked at in.
NAMED_WINDOWS = {
    "lung": Window(low_hu=-1350.0, high_hu=150.0),
    "mediastinum": Window(low_hu=-160.0, high_hu=240.0),
}


def parse_window(text: str) -> Window:
    """A window from its name, or from its lower and upper bound in HU, e.g. ``lung`` or ``-1350 150``.

    Raises:
        UsageError: neither a known name nor two numbers, the first the lower.
    """
    named = NAMED_WINDOWS.get(text.strip().lower())
    if named is not None:
        return named
    expected = f"expected a name ({', '.join(NAMED_WINDOWS)}) or two bounds in HU, as in --window -1350 150"
    parts = text.replace(",", " ").split()
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise UsageError(f"no window '{text}': {expected}") from None
    try:
        return Window(low_hu=low, high_hu=high)
    except ValidationError as error:
        raise UsageError(f"no window '{text}' ({explain(error)}): {expected}") from None
