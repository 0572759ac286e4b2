"""What changes from build to build is measured, and found where something does."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from coronanet.engines.bundle import Bundle
from coronanet.engines.places import HOME_VARIABLE
from coronanet.engines.predictor import Choice, Predictor
from coronanet.engines.slices import GateSlices
from coronanet.export import making, rebuilds
from coronanet.export.options import Wanted
from coronanet.export.pipeline import export_bundle
from coronanet.model.card import Card
from coronanet.model.errors import RefusedError
from torch import nn

from .conftest import slices_of


@pytest.fixture
def slices(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GateSlices:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    return slices_of(tiny_bundle)


def figures_of(bundle: Bundle) -> dict[str, float]:
    evidence = bundle.require("network").evidence
    assert evidence is not None
    return evidence.metric


def test_three_builds_of_the_same_are_the_same(tiny_source: Path, slices: GateSlices, tmp_path: Path) -> None:
    figures = figures_of(export_bundle(tiny_source, tmp_path / "out", slices, Wanted(rebuilds=3)))
    assert figures["rebuilds"] == 3
    assert figures["rebuild_flips"] == figures["rebuild_spread"] == 0


def test_a_build_that_differs_is_seen(
    tiny_source: Path, slices: GateSlices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter is made to change the network a little each time but the first."""
    export_graph = making.export_graph
    built: list[str] = []

    def export_another(card: Card, graph: making.Graph, network: nn.Module, path: Path) -> None:
        if graph == "network":
            built.append(graph)
            shift = torch.tensor(0.05 * (len(built) - 1))
            network = nn.Sequential(network, Shift(shift))
        export_graph(card, graph, network, path)

    monkeypatch.setattr(making, "export_graph", export_another)
    figures = figures_of(export_bundle(tiny_source, tmp_path / "out", slices, Wanted(rebuilds=2)))
    assert figures["rebuild_files"] == 2
    assert 0 < figures["rebuild_flips"] < 0.5
    assert 0 < figures["rebuild_spread"] < 0.5
    assert np.isfinite(list(figures.values())).all()


def test_a_backend_that_dies_costs_its_own_ways_alone(
    tiny_source: Path, slices: GateSlices, tmp_path: Path, openvino_dies: None
) -> None:
    bundle = export_bundle(tiny_source, tmp_path / "out", slices, Wanted(rebuilds=2))
    assert figures_of(bundle)["rebuilds"] == 2


def test_a_rebuild_that_does_not_run_where_the_first_build_did_is_refused(
    tiny_source: Path, slices: GateSlices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    def the_first_alone(bundle: Bundle, choice: Choice) -> Predictor:
        opened.append(bundle.path)
        if bundle.path != opened[0]:
            raise RuntimeError("planted")
        return Predictor.open(bundle, choice)

    monkeypatch.setattr(rebuilds, "Predictor", SimpleNamespace(open=the_first_alone))
    with pytest.raises(
        RefusedError, match=r"ran the first build of these weights and does not run another: planted.*#gate-refused"
    ):
        export_bundle(tiny_source, tmp_path / "out", slices, Wanted(rebuilds=2))
    assert not list((tmp_path / "out").iterdir())


class Shift(nn.Module):
    """Adds a constant to the logits."""

    def __init__(self, by: torch.Tensor) -> None:
        super().__init__()
        self.by = by

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + self.by
