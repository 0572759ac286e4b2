"""A training run as a TOML file: written beside the weights, and read back as the same recipe."""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from ..model.card import explain
from ..model.errors import UsageError
from .augment import Augmentation
from .recipes import Recipe

#: The name of a recipe's file.
CONFIG = "config.toml"
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
with_config(_STRICT)(Augmentation)
_RECIPE = TypeAdapter(with_config(_STRICT)(Recipe))


def write_config(recipe: Recipe, path: Path) -> None:
    """Write a recipe as TOML."""
    # TOML has no null: what is None by default is left out.
    plain = {name: value for name, value in _plain(recipe).items() if value is not None}
    path.write_text(tomli_w.dumps(plain), encoding="utf-8")


def change(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values for some of its keys.

    Raises:
        UsageError: a value that does not fit, named.
    """
    try:
        return _RECIPE.validate_json(json.dumps(_plain(recipe) | dict(changes)))
    except ValidationError as error:
        raise UsageError(f"that is no recipe: {explain(error)}") from None


def differences(begun: Recipe, given: Recipe) -> str:
    """What a recipe says otherwise than the one that a run was begun with, in one line; empty where they are equal."""
    before, now = _plain(begun), _plain(given)
    return ", ".join(f"{name} {before[name]}, now {now[name]}" for name in before if before[name] != now[name])


def _plain(recipe: Recipe) -> dict[str, Any]:
    return _RECIPE.dump_python(recipe, mode="json")


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
