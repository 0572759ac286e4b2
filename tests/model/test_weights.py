"""Weights are half precision on disk and single precision in memory, and light."""

from pathlib import Path

import pytest
import torch
from coronanet.export.shipped import PRETRAINED
from coronanet.model.card import Card, Network
from coronanet.model.errors import UsageError
from coronanet.model.networks import build
from coronanet.model.tasks import TASK_NAMES, TaskName
from coronanet.model.weights import load_network, save_weights, take_weights
from safetensors.torch import load_file

MEGABYTE = 1e6


def test_the_weights_that_ship_are_at_most_32_megabytes_together() -> None:
    assert sum(path.stat().st_size for path in PRETRAINED.rglob("*.safetensors")) <= 32 * MEGABYTE


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_weights_that_ship_were_trained_and_scored_on_patients_held_back(task: TaskName) -> None:
    card = Card.load(PRETRAINED / task / "card.json")
    assert card.training_data.slices > 100
    assert card.validation
    assert all(0 < score <= 1 for score in card.validation.values())


def test_weights_are_stored_in_half_precision_and_batch_norm_in_single(tmp_path: Path) -> None:
    for task in TASK_NAMES:
        card = Card.load(PRETRAINED / task / "card.json")
        network = build(card)
        save_weights(network, tmp_path / "weights.safetensors")
        stored = load_file(tmp_path / "weights.safetensors")
        running = {name: value.dtype for name, value in stored.items() if "running_" in name}
        assert set(running.values()) == {torch.float32}
        half = sum(value.numel() for value in stored.values() if value.dtype == torch.float16)
        assert half > 0.95 * sum(value.numel() for value in stored.values())


def test_what_is_loaded_is_what_was_saved_rounded_once(tmp_path: Path) -> None:
    card = Card.load(PRETRAINED / "lung_segmentation" / "card.json")
    network = load_network(card, PRETRAINED / "lung_segmentation" / "weights.safetensors")
    assert not network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    save_weights(network, tmp_path / "again.safetensors")
    again = load_network(card, tmp_path / "again.safetensors")
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, again.state_dict()[name], rtol=0, atol=0)


def unet(task: TaskName, features: int) -> torch.nn.Module:
    card = Card.load(PRETRAINED / task / "card.json")
    return build(card.model_copy(update={"network": Network(family="unet", parameters={"features": features})}))


def test_a_network_takes_what_fits_from_another_and_keeps_the_rest(tmp_path: Path) -> None:
    given, own = unet("binary_segmentation", 2), unet("multiclass_segmentation", 2)
    save_weights(given, tmp_path / "weights.safetensors")
    head = own.get_parameter("head.weight").detach().clone()
    assert take_weights(own, tmp_path / "weights.safetensors") == len(own.state_dict()) - 2
    assert torch.equal(own.get_parameter("head.weight"), head)
    for name, value in given.state_dict().items():
        if not name.startswith("head."):
            torch.testing.assert_close(own.state_dict()[name], value, rtol=1e-3, atol=1e-6)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(unet("binary_segmentation", 4), tmp_path / "weights.safetensors")
    network = unet("binary_segmentation", 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(UsageError, match="expected weights of the same family"):
        take_weights(network, tmp_path / "weights.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_weights_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    network = unet("binary_segmentation", 2)
    with pytest.raises(UsageError, match=r"no weights at .*none\.safetensors"):
        take_weights(network, tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"broken\.safetensors is not a safetensors file"):
        take_weights(network, tmp_path / "broken.safetensors")


@pytest.mark.parametrize("content", [b"PK\x03\x04" + b"a" * 20, b"\x80\x02" + b"a" * 20])
def test_a_pickle_is_never_loaded_and_the_line_that_converts_it_is_given(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UsageError, match=r"is a pickle.*torch\.load\('w\.pth', weights_only=True\), 'w\.safetensors'"):
        take_weights(unet("binary_segmentation", 2), tmp_path / "w.pth")


@pytest.mark.parametrize("length", [0x0280, 0x0380])
def test_safetensors_whose_length_looks_like_a_pickle_is_read(tmp_path: Path, length: int) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'.ljust(length)
    (tmp_path / "w.safetensors").write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UsageError, match="holds 0 of the network's"):
        take_weights(unet("binary_segmentation", 2), tmp_path / "w.safetensors")


def test_weights_that_do_not_fit_are_named_with_both_shapes(tmp_path: Path) -> None:
    save_weights(unet("binary_segmentation", 4), tmp_path / "weights.safetensors")
    card = Card.load(PRETRAINED / "binary_segmentation" / "card.json")
    card = card.model_copy(update={"network": Network(family="unet", parameters={"features": 2})})
    with pytest.raises(
        UsageError,
        match=r"the card's unet network: \d+ tensors differ.*expected \[64, 32, 3, 3\], got \[128, 64, 3, 3\]",
    ):
        load_network(card, tmp_path / "weights.safetensors")
    assert load_network(card, tmp_path / "weights.safetensors", lambda _: unet("binary_segmentation", 4))
