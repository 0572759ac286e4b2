"""Calibration: the range of every activation on training slices, from which int8 scales are made.

Kept in the user's cache under the hash of the network, the slices and the method, so that it is done once.
"""

import contextlib
import hashlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import calibrate as library
from onnxruntime.quantization.calibrate import (
    CalibrationDataReader,
    TensorsData,
    create_calibrator,
    load_tensors_data,
    save_tensors_data,
)

from ..engines.bundle import CalibrationMethod, hash_file
from ..engines.places import cache_home

#: What the ranges are made for: the operators that int8 speeds up.
OPERATORS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
#: The library's methods and their settings. Entropy needs many more bins than levels to choose among ranges
#: (Migacz 2017, *8-bit inference with TensorRT*).
METHODS: dict[CalibrationMethod, tuple[library.CalibrationMethod, dict[str, Any]]] = {
    "min-max": (library.CalibrationMethod.MinMax, {"symmetric": True}),
    "entropy": (library.CalibrationMethod.Entropy, {"symmetric": True, "num_bins": 2048, "num_quantized_bins": 128}),
    "percentile": (library.CalibrationMethod.Percentile, {"symmetric": True, "num_bins": 2048, "percentile": 99.999}),
}


def calibrate(
    network: Path, pixels: list[NDArray[np.float32]], method: CalibrationMethod, *, progress: Callable[[int], None]
) -> TensorsData:
    """The range of every activation of a float32 ONNX network, read from the cache where it was measured before.

    Args:
        pixels: what the network sees of the training slices, each float32 ``[1, 1, h, w]``.
        progress: told the number of slices done.
    """
    path = cache_path(network, pixels, method)
    if path.is_file():
        # What cannot be read is measured anew.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return load_tensors_data(path)
    kind, options = METHODS[method]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        # The library prints its progress.
        with contextlib.redirect_stdout(io.StringIO()):
            calibrator = create_calibrator(
                network, OPERATORS, str(Path(work) / "augmented.onnx"), kind, extra_options=options
            )
            for number, slice_ in enumerate(pixels):
                # One at a time: the library holds every activation of what it is given.
                calibrator.collect_data(_One(slice_))
                progress(number + 1)
            ranges = calibrator.compute_data()
        done = Path(work) / path.name
        save_tensors_data(ranges, done)
        done.replace(path)
    return load_tensors_data(path)


def cache_path(network: Path, pixels: list[NDArray[np.float32]], method: CalibrationMethod) -> Path:
    """Where the ranges of a network on these slices by this method are kept."""
    digest = hashlib.sha256(f"{hash_file(network)} {METHODS[method]}".encode())
    for slice_ in pixels:
        digest.update(slice_.tobytes())
    return cache_home() / "calibrations" / f"{digest.hexdigest()[:24]}.json"


class _One(CalibrationDataReader):
    def __init__(self, pixels: NDArray[np.float32]) -> None:
        self._feeds: dict[str, NDArray[np.float32]] | None = {"pixels": pixels}

    def get_next(self) -> dict[str, NDArray[np.float32]]:
        feeds, self._feeds = self._feeds, None
        return feeds or {}
