"""A network that has learnt nothing goes the way of any other."""

from pathlib import Path

import numpy as np
import pytest
import torch
from coronanet.benchmarks.untrained import write_untrained
from coronanet.cli import main
from coronanet.engines.open import open_engine
from coronanet.engines.slices import phantom_slices
from coronanet.export.options import Wanted
from coronanet.export.pipeline import export_bundle
from coronanet.model.card import Card
from coronanet.model.errors import UsageError


def test_it_is_exported_like_one_that_was_trained_and_says_what_it_is(tmp_path: Path) -> None:
    card = write_untrained(tmp_path / "source", features=4, size=64)
    assert Card.load(tmp_path / "source" / "card.json") == card
    assert "learnt nothing" in card.intended_use
    bundle = export_bundle(tmp_path / "source", tmp_path / "out", phantom_slices())
    with open_engine(bundle) as engine:
        logits = engine.infer({"pixels": np.ones((1, 1, 64, 64), np.float32)})["logits"]
    # Neither faded away nor exploded on its way, as with torch's own beginning it would.
    assert 1e-3 < np.abs(logits).max() < 1e3


def test_the_same_size_is_the_same_network(tmp_path: Path) -> None:
    torch.manual_seed(7)
    write_untrained(tmp_path / "a", features=4, size=64)
    write_untrained(tmp_path / "b", features=4, size=64)
    assert (tmp_path / "a" / "weights.safetensors").read_bytes() == (
        tmp_path / "b" / "weights.safetensors"
    ).read_bytes()


def test_a_size_that_cannot_be_halved_five_times_and_a_folder_in_use_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["bench", "untrained", str(tmp_path / "odd"), "--size", "100"])
    assert refused.value.code == 2
    assert "expected --size to be a multiple of 32, got 100" in capsys.readouterr().err
    assert not (tmp_path / "odd").exists()
    write_untrained(tmp_path / "used", features=4, size=64)
    before = (tmp_path / "used" / "weights.safetensors").read_bytes()
    with pytest.raises(SystemExit):
        main(["bench", "untrained", str(tmp_path / "used"), "--features", "8", "--size", "64"])
    assert "there are weights in" in capsys.readouterr().err
    assert (tmp_path / "used" / "weights.safetensors").read_bytes() == before


def test_the_largest_batch_is_the_one_that_the_export_asked_for(tmp_path: Path) -> None:
    write_untrained(tmp_path / "source", features=4, size=32)
    bundle = export_bundle(tmp_path / "source", tmp_path / "out", phantom_slices(), Wanted(max_batch=20))
    for graph in ("preprocess", "network", "decide"):
        batch = bundle.require(graph).batch
        assert batch is not None
        assert (batch.min, batch.opt, batch.max) == (1, 10, 20)
    with open_engine(bundle) as engine:
        assert engine.infer({"pixels": np.ones((20, 1, 32, 32), np.float32)})["logits"].shape == (20, 1, 32, 32)
        with pytest.raises(UsageError, match="expected a batch of at most 20, got 21"):
            engine.infer({"pixels": np.ones((21, 1, 32, 32), np.float32)})
