"""An int8 network that its gates would refuse keeps the nodes it needs in float32, or says why it cannot."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from coronanet.engines.places import HOME_VARIABLE
from coronanet.engines.slices import GateSlices, phantom_slices
from coronanet.export import int8
from coronanet.export.options import Wanted
from coronanet.export.pipeline import export_bundle
from coronanet.model.errors import RefusedError

from .conftest import slices_of, write_scaled


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No search is known from an earlier run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def slices(source: Path, tmp_path_factory: pytest.TempPathFactory) -> GateSlices:
    """Slices whose truth is what the float32 network says of them."""
    return slices_of(export_bundle(source, tmp_path_factory.mktemp("plain"), phantom_slices()))


@pytest.fixture(scope="module")
def source(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network with one channel between its first two convolutions 2000 times as large, so that one int8 scale
    for all of them leaves the others hardly a level."""
    folder = tmp_path_factory.mktemp("source")
    write_scaled(tiny_source, folder, 2000.0, tolerance=0.005)
    return folder


def test_the_node_that_int8_would_spoil_is_found_and_kept(source: Path, slices: GateSlices, tmp_path: Path) -> None:
    told: list[str] = []
    bundle = export_bundle(
        source, tmp_path / "out", slices, Wanted(calibration=slices, margin=0.005), progress=told.append
    )
    record = bundle.require("network", "int8")
    assert record.is_proved
    census = next(gate for gate in record.gates if gate.gate == "precision")
    assert 2 <= len(census.nodes) <= 6
    assert record.calibration is not None
    assert (record.calibration.method, record.calibration.quantizer) == ("min-max", "onnxruntime")
    assert (record.calibration.images_sha256, record.calibration.slices) == (slices.sha256, len(slices.samples))
    assert bundle.require("network").calibration is None
    assert any("alone does to the answer" in what for what in told)
    assert census.figures["in_precision"] > 4 * census.figures["kept"]


def test_a_margin_that_nothing_meets_ends_the_export_and_leaves_nothing(
    source: Path, slices: GateSlices, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError, match=r"int8 does not pass its gates even with .* (labels|dice).*#gate-refused"):
        export_bundle(source, tmp_path / "out", slices, Wanted(calibration=slices, margin=0.0))
    assert not list((tmp_path / "out").iterdir())


def test_a_backend_that_dies_does_not_end_the_export_and_refuses_nothing(
    tiny_source: Path, slices: GateSlices, tmp_path: Path, openvino_dies: None
) -> None:
    bundle = export_bundle(tiny_source, tmp_path / "out", slices, Wanted(calibration=slices, margin=0.5))
    assert bundle.require("network", "int8").is_proved


def test_an_int8_that_no_backend_runs_is_refused(
    tiny_source: Path, slices: GateSlices, tmp_path: Path, openvino_dies: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "CPU_BACKENDS", ("openvino",))
    with pytest.raises(
        RefusedError, match=r"int8 does not pass .*: no backend of this machine runs it .*#gate-refused"
    ):
        export_bundle(tiny_source, tmp_path / "out", slices, Wanted(calibration=slices, margin=0.5))
    assert not list((tmp_path / "out").iterdir())


def test_an_optional_int8_is_left_out(source: Path, slices: GateSlices, tmp_path: Path) -> None:
    bundle = export_bundle(source, tmp_path / "out", slices, Wanted(calibration=slices, margin=0.0, optional=True))
    assert bundle.manifest.graph("network", "int8") is None
    assert np.isin("network.fp32.onnx", [record.path for record in bundle.manifest.files])
