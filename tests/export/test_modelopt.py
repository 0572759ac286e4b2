"""NVIDIA's ModelOpt as the quantizer: the same nodes in int8, through the same gates, into what TensorRT takes."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from coronanet.engines.bundle import Bundle, PlanTarget
from coronanet.export.modelopt import check_modelopt, quantize_with_modelopt
from coronanet.export.options import Wanted
from coronanet.export.pipeline import export_bundle
from coronanet.export.quantize import quantized_nodes
from coronanet.export.to_tensorrt import build_plan
from coronanet.model.errors import MissingPackageError, UsageError

from .conftest import slices_of


@pytest.fixture
def modelopt() -> None:
    pytest.importorskip("modelopt.onnx.quantization", reason="nvidia-modelopt is not installed")


def test_without_modelopt_the_export_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(MissingPackageError, match=r"modelopt needs modelopt.*pip install --no-deps nvidia-modelopt=="):
        check_modelopt("min-max")


def test_a_calibration_that_modelopt_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="min-max or entropy, not by percentile"):
        check_modelopt("percentile")


def test_an_export_by_modelopt_passes_the_gates_and_becomes_a_plan(
    modelopt: None, tiny_source: Path, tiny_bundle: Bundle, target: PlanTarget, tmp_path: Path
) -> None:
    slices = slices_of(tiny_bundle)
    bundle = export_bundle(tiny_source, tmp_path / "out", slices, Wanted(calibration=slices, quantizer="modelopt"))
    record = bundle.require("network", "int8")
    assert record.is_proved
    plan = build_plan(bundle.path, record, target)
    assert plan.verdicts["precision"] == "passed"


def test_what_is_kept_stays_in_float32(modelopt: None, tiny_bundle: Bundle, tmp_path: Path) -> None:
    single = tiny_bundle.file(tiny_bundle.require("network"))
    rng = np.random.default_rng(0)
    pixels = [rng.normal(0, 1, (1, 1, 64, 64)).astype(np.float32) for _ in range(2)]

    def written(kept: tuple[str, ...]) -> set[str]:
        quantize_with_modelopt(single, tmp_path / "int8.onnx", pixels, "min-max", kept=kept)
        return quantized_nodes(onnx.load_model(tmp_path / "int8.onnx"))

    every = written(())
    kept = min(every)
    assert len(every) > 5
    assert written((kept,)) == every - {kept}
