"""TensorRT's own tool as a peer: a process of its own, after the others, since it cannot be measured in turns."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..engines.base import Engine
from ..engines.bundle import Bundle, FileRecord
from ..model.errors import UsageError
from .peers import Peer

#: What NVIDIA calls it, in TensorRT and in TensorRT-RTX.
TOOLS = ("trtexec", "tensorrt_rtx")
NAME = "trtexec"
TIMEOUT_S = 180.0
SECONDS = 3
NS_PER_MS = 1_000_000


def _not_in_turns(_: Bundle) -> Engine:
    raise UsageError(f"{NAME} is a process of its own and cannot be measured in turns")


TRTEXEC = Peer(
    NAME,
    "TensorRT's own tool, its latency with the copies; a process of its own after the others, not in turns",
    _not_in_turns,
)


def run_trtexec(bundle: Bundle, batch: int) -> tuple[int, ...]:
    """The latencies in nanoseconds of the bundle's fp16 file where it has one, else of the fp32 one.

    Raises:
        UsageError: the tool is not here, or failed; the message has its last line.
    """
    tool = next((found for name in TOOLS if (found := shutil.which(name))), None)
    if tool is None:
        raise UsageError(
            f"{' or '.join(TOOLS)} is not on the PATH: it comes with NVIDIA's TensorRT archive or container"
        )
    record = bundle.manifest.graph("network", "fp16") or bundle.require("network")
    with tempfile.TemporaryDirectory() as folder:
        times = Path(folder) / "times.json"
        try:
            done = subprocess.run(
                command(tool, bundle.file(record), record, batch, times),
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
                cwd=folder,
            )
        except subprocess.TimeoutExpired:
            raise UsageError(f"{NAME} gave no answer within {TIMEOUT_S:.0f} s") from None
        if done.returncode or not times.is_file():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
            raise UsageError(f"{NAME} ended with code {done.returncode}: {last[0]}")
        return latencies_ns(times.read_bytes())


def command(tool: str, file: Path, record: FileRecord, batch: int, times: Path) -> Sequence[str]:
    """The call: a strongly typed network, as ours are, at one batch size."""
    (tensor,) = record.inputs
    shape = "x".join(str(size) for size in (batch, *tensor.shape[1:]))
    return [
        tool,
        f"--onnx={file}",
        f"--shapes={tensor.name}:{shape}",
        "--stronglyTyped",
        "--useCudaGraph",
        f"--duration={SECONDS}",
        f"--exportTimes={times}",
    ]


def latencies_ns(text: bytes) -> tuple[int, ...]:
    """What ``--exportTimes`` wrote: ``latencyMs`` of every inference.

    Raises:
        UsageError: it is not that.
    """
    try:
        found = tuple(round(float(one["latencyMs"]) * NS_PER_MS) for one in json.loads(text))
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{NAME} wrote no times that can be read: expected a list with latencyMs") from None
    if not found:
        raise UsageError(f"{NAME} wrote no times")
    return found
