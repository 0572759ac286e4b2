"""A card is strict: what is unknown, missing or out of range is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coronanet.export.shipped import PRETRAINED
from coronanet.model.card import Card
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TASK_NAMES, TaskName


def card_of(task: TaskName) -> dict[str, Any]:
    return json.loads((PRETRAINED / task / "card.json").read_text())


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_cards_that_ship_are_valid_and_survive_a_round_trip(task: TaskName) -> None:
    card = Card.load(PRETRAINED / task / "card.json")
    assert card.task == task
    assert Card.from_json(card.to_json(), origin="again") == card
    assert "research" in card.licence.lower()
    assert "not a medical device" in card.intended_use.lower()


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda card: card.update(colour="red"), "colour"),
        (lambda card: card.pop("threshold"), "threshold"),
        (lambda card: card["window"].pop("low_hu"), "window.low_hu"),
        (lambda card: card["window"].update(low_hu=400.0), "must be below high_hu"),
        (lambda card: card["window"].update(low_hu="-1350"), "window.low_hu"),
        (lambda card: card["normalisation"].update(std=0.0), "normalisation.std"),
        (lambda card: card["geometry"].update(height=250), "geometry.height"),
        (lambda card: card.update(threshold=1.5), "threshold"),
        (lambda card: card.update(threshold=None), "threshold of binary_segmentation must be a number"),
        (lambda card: card.update(labels=["background", "cat"]), "labels of binary_segmentation"),
        (lambda card: card.update(task="cooking"), "task"),
    ],
)
def test_a_wrong_card_is_one_line_that_names_the_key(edit: Callable[[dict[str, Any]], object], named: str) -> None:
    card = card_of("binary_segmentation")
    edit(card)
    with pytest.raises(UsageError, match=named) as raised:
        Card.from_json(json.dumps(card), origin="card.json")
    assert "\n" not in str(raised.value)


def test_weights_without_a_card_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"weights travel with a card\.json"):
        Card.load(tmp_path / "card.json")


def test_the_recipe_depends_on_the_pixels_alone() -> None:
    card = card_of("binary_segmentation")
    one = Card.from_json(json.dumps(card), origin="card")
    card["threshold"] = 0.25
    assert Card.from_json(json.dumps(card), origin="card").recipe == one.recipe
    card["window"]["high_hu"] = 151.0
    assert Card.from_json(json.dumps(card), origin="card").recipe != one.recipe
