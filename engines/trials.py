"""What of the toolkit works here: every backend in every precision it has, really run on one convolution."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .bundle import Precision
from .open import BACKENDS, EXTRAS, PRECISIONS, is_installed

TIMEOUT_S = 60
#: The command that brings what a trial needs, by module.
REMEDIES = {
    **{backend: f"pip install 'coronanet[{EXTRAS[backend]}]'" for backend in BACKENDS},
    "onnx": "pip install 'coronanet[cpu]'",
    "torch_cuda": "pip install torch, from the index of your CUDA: https://pytorch.org/get-started/locally",
    "onnxruntime_cuda": "pip uninstall onnxruntime; pip install 'coronanet[gpu]'",
    "tensorrt": "pip install 'coronanet[gpu]'",
    "tensorrt_rtx": "pip install tensorrt-rtx",
}
#: The module of a backend that is not named after it.
MODULES = {"torch_cuda": "torch", "onnxruntime_cuda": "onnxruntime"}
#: What a plan can be built in; the file of each is the ONNX graph of that precision.
PLAN_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Trial:
    """One backend in one precision.

    ``works``: it gave the right answer (a plan: the GPU here loads it). ``builds``: a plan is built, and no driver is
    here to run it. ``fails``: ``reason`` says why. ``missing``: ``remedy`` is the command that installs it.
    """

    backend: str
    precision: Precision
    verdict: Literal["works", "builds", "fails", "missing"]
    reason: str
    remedy: str | None


def run_trials() -> tuple[Trial, ...]:
    """Try everything, two processes at a time."""
    tried: dict[str, tuple[Precision, ...]] = {name: tuple(precisions) for name, precisions in PRECISIONS.items()}
    tried |= dict.fromkeys(("tensorrt", "tensorrt_rtx"), PLAN_PRECISIONS)
    pairs = [(name, precision) for name, precisions in tried.items() for precision in precisions]
    with ThreadPoolExecutor(2) as pool:
        return tuple(pool.map(lambda pair: try_backend(*pair), pairs))


def try_backend(backend: str, precision: Precision) -> Trial:
    """Run one trial in a process of its own."""
    if (missing := _missing(backend)) is not None:
        what, remedy = missing
        return Trial(backend, precision, "missing", what, remedy)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        # -P: a file of the folder that doctor is called in is never taken for a package.
        command = [sys.executable, "-P", "-m", f"{__package__}.trial_worker", backend, precision, str(result)]
        try:
            done = subprocess.run(command, capture_output=True, check=False, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return Trial(backend, precision, "fails", f"no answer within {TIMEOUT_S} s", None)
        if not result.is_file():
            return Trial(backend, precision, "fails", _ending(done.returncode), None)
        answer: dict[str, str] = json.loads(result.read_text(encoding="utf-8"))
    verdict: Literal["works", "builds", "fails"] = answer["verdict"]  # pyright: ignore[reportAssignmentType]
    return Trial(backend, precision, verdict, _without_home(answer["reason"]), None)


def _missing(backend: str) -> tuple[str, str] | None:
    """What a trial needs that is not installed, and the command that brings it."""
    for module in (MODULES.get(backend, backend), "onnx"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed", REMEDIES[module]
    if backend == "onnxruntime_cuda" and not is_installed(backend):
        return "the ONNX Runtime here has no CUDA, and two cannot be installed at once", REMEDIES[backend]
    if backend == "torch_cuda" and not is_installed(backend):
        return "the torch here was built without CUDA", REMEDIES[backend]
    return None


def _ending(code: int) -> str:
    """Why a process left no result."""
    if code < 0:
        return f"it ended the process with {signal.Signals(-code).name}: the package does not fit this machine"
    return f"it ended the process with exit code {code}: install the package anew"


def _without_home(reason: str) -> str:
    """A reason may name files of the installation; the user's name stays out."""
    return reason.replace(os.path.expanduser("~"), "~")
