"""A training run as a TOML file: written beside the weights, and read back as the same recipe."""

import json
import tomllib
from pathlib import Path

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ..model.card import explain
from ..model.errors import UsageError
from .augment import Augmentation
from .recipes import Recipe

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
with_config(_STRICT)(Augmentation)
_RECIPE = TypeAdapter(with_config(_STRICT)(Recipe))


def write_config(recipe: Recipe, path: Path) -> None:
    """Write a recipe as TOML."""
    plain = {name: value for name, value in _RECIPE.dump_python(recipe, mode="json").items() if value is not None}
    path.write_text(tomli_w.dumps(plain), encoding="utf-8")


def read_config(path: Path) -> Recipe:
    """Read a recipe; a key that is left out has the recipe's default, ``network`` must be there.

    Raises:
        UsageError: no such file, not TOML, or a key that is unknown or has a value that does not fit, each named.
    """
    if not path.is_file():
        raise UsageError(f"no config at {path}: a training run writes one beside its weights")
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        # As JSON, where strict means the types that a file has.
        return _RECIPE.validate_json(json.dumps(given, default=str))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        raise UsageError(f"{path} is not a recipe: {explain(error)}") from None
