"""NVIDIA's ModelOpt as a second quantizer: int8 by the rules of TensorRT's own tool, under the same gates.

It asks for versions of ONNX Runtime that conflict with this project's, so no extra brings it (``INSTALL`` does).
"""

import contextlib
import importlib
import re
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from ..engines.bundle import CalibrationMethod
from ..model.errors import MissingPackageError, UsageError
from .calibrate import OPERATORS
from .quantize import quantizable
from .to_onnx import OPSET, save_onnx

MODULE = "modelopt.onnx.quantization"
#: ModelOpt's own names.
METHODS: dict[CalibrationMethod, str] = {"min-max": "max", "entropy": "entropy"}
INSTALL = (
    "pip install --no-deps nvidia-modelopt==0.47.0 omegaconf antlr4-python3-runtime==4.9.3 pulp regex "
    "polygraphy onnxslim onnxconverter-common==1.16.0 lief onnx-graphsurgeon"
)


def check_modelopt(method: CalibrationMethod) -> None:
    """Refuse early what ``quantize_with_modelopt`` could not do.

    Raises:
        MissingPackageError: ModelOpt, or a package that it needs, is not installed.
        UsageError: it does not calibrate by this method.
    """
    if method not in METHODS:
        raise UsageError(
            f"ModelOpt calibrates by {' or '.join(METHODS)}, not by {method}: choose one with --calibration"
        )
    try:
        importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "modelopt", purpose="--quantizer modelopt", install=INSTALL) from None


def quantize_with_modelopt(
    network: Path, target: Path, pixels: list[NDArray[np.float32]], method: CalibrationMethod, *, kept: Collection[str]
) -> None:
    """Write the int8 form of a float32 ONNX network, with ranges of ModelOpt's own.

    Of the nodes that ``quantize`` takes, those that ModelOpt finds worth it: not convolutions of few channels.

    Args:
        pixels: what the network sees of the training slices, each float32 ``[1, 1, h, w]``.
        kept: names of the nodes that stay in float32.

    Raises:
        MissingPackageError, UsageError: as ``check_modelopt``.
    """
    check_modelopt(method)
    # Without types, and not installed beside what checks them.
    quantize: Callable[..., None] = importlib.import_module(MODULE).quantize
    model = onnx.load_model(network)
    taken = [name for name in quantizable(model) if name not in kept]
    if not taken:
        save_onnx(model, target)
        return
    with tempfile.TemporaryDirectory(dir=target.parent) as folder, contextlib.redirect_stdout(sys.stderr):
        work = Path(folder) / "int8.onnx"
        quantize(
            str(network),
            quantize_mode="int8",
            calibration_data={model.graph.input[0].name: np.concatenate(pixels)},
            calibration_method=METHODS[method],
            calibration_eps=["cpu"],
            op_types_to_quantize=list(OPERATORS),
            nodes_to_quantize=[f"^{re.escape(name)}$" for name in taken],
            output_path=str(work),
            high_precision_dtype="fp32",
            opset=OPSET,
            passes=[],
            log_level="ERROR",
        )
        save_onnx(onnx.load_model(work), target)
