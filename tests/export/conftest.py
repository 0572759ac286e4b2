"""One small network in every precision that TensorRT takes, with the record that a manifest would have of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from coronanet.engines.bundle import CARD, WEIGHTS, Bundle, FileRecord, PlanTarget, Precision, hash_file
from coronanet.engines.openvino_engine import OpenVinoEngine
from coronanet.engines.predictor import REFERENCE, Choice, Predictor
from coronanet.engines.slices import GateSlices, calibration_slices, phantom_slices
from coronanet.export.calibrate import calibrate
from coronanet.export.half import convert_to_half
from coronanet.export.making import onnx_name
from coronanet.export.plan_target import plan_target
from coronanet.export.quantize import quantize
from coronanet.export.separate import separate_concatenations
from coronanet.export.to_onnx import save_onnx
from coronanet.model.card import Card
from coronanet.model.tasks import TaskName
from coronanet.model.weights import load_network, save_weights
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

#: What TensorRT asks of a Q/DQ graph; its bias must not be quantised.
TENSORRT_TAKES = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}


class Noise(CalibrationDataReader):
    """Two batches that are nothing but noise."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._batches = iter([rng.normal(0, 1, (2, 1, 64, 64)).astype(np.float32) for _ in range(2)])

    def get_next(self) -> dict[str, NDArray[np.float32]]:
        batch = next(self._batches, None)
        return {} if batch is None else {"pixels": batch}


def quantise(source: Path, target: Path, options: dict[str, bool], *, leave_out: tuple[str, ...] = ()) -> None:
    """Write the Q/DQ form of a network, int8 by channel, with some nodes left in float."""
    quantize_static(
        source,
        target,
        Noise(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["Conv", "ConvTranspose", "MatMul", "Gemm"],
        nodes_to_exclude=list(leave_out),
        extra_options=options,
    )


def slices_of(bundle: Bundle) -> GateSlices:
    """Slices whose truth is what the float32 network says of them."""
    with Predictor.open(bundle, REFERENCE) as predictor:
        samples = tuple(
            replace(sample, group=f"patient-{number}", lung=predictor.predict(sample.image[None])[0])
            for number, sample in enumerate(phantom_slices().samples)
        )
    return GateSlices("its own answers", samples, real=True)


def write_scaled(source: Path, folder: Path, factor: float, **card: float) -> None:
    """Write card and weights of the small network with one channel between its first two convolutions ``factor`` times
    as large, which changes nothing of what it says; ``card`` changes fields of the card."""
    changed = Card.load(source / CARD).model_copy(update=card)
    network = load_network(changed, source / WEIGHTS)
    weights = network.state_dict()
    with torch.no_grad():
        # The batch normalisation behind the first convolution, and what the second reads of its first channel.
        for name in ("down.0.1.weight", "down.0.1.bias"):
            weights[name][0] *= factor
        weights["down.0.3.weight"][:, 0] /= factor
    save_weights(network, folder / WEIGHTS)
    (folder / CARD).write_text(changed.to_json(), encoding="utf-8")


@pytest.fixture
def openvino_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO loads every network and runs none."""

    def dies(*_: object) -> dict[str, NDArray[Any]]:
        raise RuntimeError("planted")

    monkeypatch.setattr(OpenVinoEngine, "infer", dies)


@pytest.fixture(scope="session")
def target() -> PlanTarget:
    """A GPU that needs not be here: TensorRT-RTX builds plans for it."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    return plan_target("tensorrt_rtx", compute_capability="8.6")


@pytest.fixture(scope="session")
def work(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a bundle in the making: the small network in fp32, fp16 and int8."""
    folder = tmp_path_factory.mktemp("work")
    single = folder / onnx_name("network", "fp32")
    single.write_bytes(tiny_bundle.file(tiny_bundle.require("network")).read_bytes())
    convert_to_half(single, folder / onnx_name("network", "fp16"))
    quantise(single, folder / onnx_name("network", "int8"), TENSORRT_TAKES)
    return folder


@pytest.fixture(scope="session")
def int8_of(
    bundles: dict[TaskName, Bundle], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[TaskName], Path]:
    """Writes what `export --int8` makes of a network that ships before any node is kept back, of four slices."""
    folder = tmp_path_factory.mktemp("int8")

    def make(task: TaskName) -> Path:
        single, target = folder / f"{task}.onnx", folder / task / onnx_name("network", "int8")
        target.parent.mkdir()
        save_onnx(
            separate_concatenations(onnx.load_model(bundles[task].file(bundles[task].require("network")))), single
        )
        with Predictor.open(bundles[task], Choice()) as predictor:
            images = calibration_slices(data).images[::8]
            pixels = [predictor.preprocess.infer({"image": image[None]})["pixels"] for image in images]
        quantize(single, target, calibrate(single, pixels, "min-max", progress=lambda _: None), kept=())
        return target

    return make


@pytest.fixture(scope="session")
def record_of(tiny_bundle: Bundle) -> Callable[[Path, Precision], FileRecord]:
    """The manifest's record of an ONNX file, as if it were the small network in a precision."""

    def record(path: Path, precision: Precision) -> FileRecord:
        fields = {"path": path.name, "precision": precision, "sha256": hash_file(path), "bytes": path.stat().st_size}
        return tiny_bundle.require("network").model_copy(update=fields)

    return record
