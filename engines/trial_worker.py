"""One backend tried in one precision, in a process of its own: a library that ends the process ends only this one.

Run as ``python -m coronanet.engines.trial_worker BACKEND PRECISION RESULT``; writes the result as JSON.
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any, cast

from .bundle import Precision
from .nvidia import driver_cuda
from .open import open_onnx
from .trial_graph import INPUT, OUTPUT, is_right, trial_model, trial_pixels, trial_weights


def main(backend: str, precision: Precision, result: Path) -> None:
    """Write ``{"verdict": …, "reason": …}``; the verdicts are those of `trials.Trial`."""
    try:
        match backend:
            case "torch":
                verdict = _judge(_ask_torch(), precision)
            case "torch_cuda":
                verdict = _judge(_ask_torch_cuda(precision), precision)
            case "onnxruntime" | "openvino" | "onnxruntime_cuda":
                verdict = _judge(_ask_onnx(backend, precision), precision)
            case _:
                verdict = _build_plan(backend, precision)
    except Exception as error:  # whatever a broken installation raises is what the doctor is there to say
        lines = str(error).strip().splitlines()
        verdict = ("fails", lines[0] if lines else type(error).__name__)
    result.write_text(json.dumps(dict(zip(("verdict", "reason"), verdict, strict=True))), encoding="utf-8")


def _judge(logits: Any, precision: Precision) -> tuple[str, str]:
    if is_right(logits, precision):
        return "works", ""
    return "fails", "it computes something else than the convolution that it was given"


def _ask_torch() -> Any:
    from .torch_engine import TorchEngine

    return TorchEngine(_convolution(), (INPUT,), (OUTPUT,), 1).infer({INPUT.name: trial_pixels()})[OUTPUT.name]


def _ask_torch_cuda(precision: Any) -> Any:
    from .torch_cuda_engine import TorchCudaEngine

    with TorchCudaEngine(_convolution(), (INPUT,), (OUTPUT,), 1, precision=precision) as engine:
        return engine.infer({INPUT.name: trial_pixels()})[OUTPUT.name]


def _convolution() -> Any:
    import torch

    convolution = torch.nn.Conv2d(1, len(trial_weights()), 3, padding=1, bias=False)
    convolution.load_state_dict({"weight": torch.from_numpy(trial_weights())})
    return convolution


def _ask_onnx(backend: Any, precision: Precision) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.onnx"
        path.write_bytes(trial_model(precision))
        with open_onnx(path, (INPUT,), (OUTPUT,), 1, backend=backend, precision=precision) as engine:
            return engine.infer({INPUT.name: trial_pixels()})[OUTPUT.name]


def _build_plan(module: str, precision: Precision) -> tuple[str, str]:
    """A strongly typed plan by TensorRT or TensorRT-RTX, and whether the GPU here loads it."""
    trt: Any = importlib.import_module(module)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(trial_model(precision)):
        return "fails", f"{module} does not parse the graph: {parser.get_error(0).desc()}"
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    if plan is None:
        return "fails", f"{module} builds no plan"
    if driver_cuda() is None:
        return "builds", "there is no GPU with a driver here to run the plan"
    if trt.Runtime(logger).deserialize_cuda_engine(plan) is None:
        return "fails", f"the GPU here does not load the plan that {module} built"
    return "works", ""


if __name__ == "__main__":
    main(sys.argv[1], cast(Precision, sys.argv[2]), Path(sys.argv[3]))
