"""A recipe as TOML: what is written can be fed back in, and what is wrong is named."""

import dataclasses
from pathlib import Path

import pytest
from coronanet.model.card import Geometry, Network, Normalisation, Window
from coronanet.model.errors import UsageError
from coronanet.training.augment import Augmentation
from coronanet.training.config import change, differences, read_config, write_config
from coronanet.training.recipes import RECIPES, TOGETHER, Recipe

#: A recipe of which nothing is the default.
OTHER = Recipe(
    Network(family="fpn", parameters={"variant": "resnet18", "width": 0.5, "filters": 32}),
    Augmentation(*(value / 8 for value in dataclasses.astuple(Augmentation()))),
    Geometry(height=64, width=96),
    Window(low_hu=-1000.0, high_hu=400.0),
    Normalisation(mean=0.25, std=0.5),
    steps=77,
    batch=3,
    learning_rate=1e-30,
    weight_decay=0.125,
    ema_decay=0.5,
    minimum_lesion=0.01,
    lesion_free_share=0.75,
    imagenet=True,
    checkpoint_steps=7,
    validation_steps=9,
    patience=4,
    seed=5,
)


@pytest.mark.parametrize("recipe", [*RECIPES.values(), TOGETHER, OTHER], ids=[*RECIPES, "together", "other"])
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
        ("batch = 0\n" + NETWORK, "batch"),
        ("seed = -1\n" + NETWORK, "seed"),
        ("learning_rate = nan\n" + NETWORK, "learning_rate"),
        ("learning_rate = 1979-05-27\n" + NETWORK, "learning_rate"),
        ("ema_decay = 1.0\n" + NETWORK, "ema_decay"),
        (NETWORK + "[window]\nlow_hu = 5\nhigh_hu = 5\n", "low_hu 5.0 must be below high_hu 5.0"),
    ],
)
def test_what_is_wrong_is_named(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(UsageError, match=named):
        read_config(tmp_path / "config.toml")


def test_nothing_of_the_other_recipe_is_the_default() -> None:
    plain = Recipe(Network(family="unet", parameters={}))
    assert len(differences(plain, OTHER).split(", now ")) == 1 + len(dataclasses.fields(Recipe))


def test_what_two_recipes_say_differently_is_said() -> None:
    assert differences(TOGETHER, TOGETHER) == ""
    changed = dataclasses.replace(TOGETHER, batch=4, patience=2)
    assert differences(TOGETHER, changed) == f"batch {TOGETHER.batch}, now 4, patience None, now 2"


def test_a_change_keeps_the_rest() -> None:
    assert change(OTHER, {"steps": 20}) == dataclasses.replace(OTHER, steps=20)
    with pytest.raises(UsageError, match="steps"):
        change(OTHER, {"steps": 19})


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config at .*none\.toml"):
        read_config(tmp_path / "none.toml")
