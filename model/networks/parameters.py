"""Hyperparameters from a card, read strictly."""

from collections.abc import Collection

from ..card import Card
from ..errors import UsageError

Value = int | float | str


def read_parameters(card: Card, defaults: dict[str, Value]) -> dict[str, Value]:
    """The card's hyperparameters over ``defaults``. ``dropout`` is a share; every other number counts or scales.

    Raises:
        UsageError: a parameter that the family does not have, one of another type, or a number out of range.
    """
    merged = dict(defaults)
    for name, value in card.network.parameters.items():
        if name not in defaults:
            known = ", ".join(sorted(defaults))
            raise UsageError(f"{card.network.family} has no parameter '{name}': expected one of {known}")
        wanted = type(defaults[name])
        if not isinstance(value, wanted) and not (wanted is float and isinstance(value, int)):
            raise UsageError(
                f"{card.network.family} parameter '{name}' must be {wanted.__name__}, got {type(value).__name__}"
            )
        _check_range(card, name, value)
        merged[name] = value
    return merged


def read_variant(card: Card, parameters: dict[str, Value], known: Collection[str]) -> str:
    """The parameter ``variant``, which must be one of ``known``.

    Raises:
        UsageError: it is not.
    """
    variant = str(parameters["variant"])
    if variant not in known:
        raise UsageError(f"{card.network.family} has no variant '{variant}': expected one of {', '.join(known)}")
    return variant


def _check_range(card: Card, name: str, value: Value) -> None:
    if isinstance(value, str):
        return
    if name == "dropout":
        if not 0 <= value < 1:
            raise UsageError(f"{card.network.family} parameter 'dropout' must be at least 0 and below 1, got {value:g}")
    elif value <= 0:
        raise UsageError(f"{card.network.family} parameter '{name}' must be above 0, got {value:g}")
