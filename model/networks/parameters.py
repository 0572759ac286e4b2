"""Hyperparameters from a card, read strictly."""

from ..card import Card
from ..errors import UsageError


def read_parameters(card: Card, defaults: dict[str, int | float | str]) -> dict[str, int | float | str]:
    """The card's hyperparameters over ``defaults``.

    Raises:
        UsageError: a parameter that the family does not have, or one of another type.
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
        merged[name] = value
    return merged
