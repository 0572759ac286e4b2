"""A recipe as TOML: what is written can be fed back in, and what is wrong is named."""

from pathlib import Path

import pytest
from coronanet.model.errors import UsageError
from coronanet.training.config import read_config, write_config
from coronanet.training.recipes import RECIPES, TOGETHER, Recipe


@pytest.mark.parametrize("recipe", [*RECIPES.values(), TOGETHER], ids=[*RECIPES, "together"])
def test_a_recipe_comes_back_as_it_was_written(recipe: Recipe, tmp_path: Path) -> None:
    write_config(recipe, tmp_path / "config.toml")
    assert read_config(tmp_path / "config.toml") == recipe


NETWORK = '[network]\nfamily = "unet"\nparameters = {}\n'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stepz = 3\n" + NETWORK, "stepz"),
        ("steps = 3\n", "network"),
        ('steps = "many"\n' + NETWORK, "steps"),
        (NETWORK + "[augmentation]\nelastics = 1.0\n", "augmentation.elastics"),
        (NETWORK + "[geometry]\nheight = 33\nwidth = 64\n", "geometry.height"),
        ("steps = \n", "is not TOML"),
    ],
)
def test_what_is_wrong_is_named(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(UsageError, match=named):
        read_config(tmp_path / "config.toml")


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config at .*none\.toml"):
        read_config(tmp_path / "none.toml")
