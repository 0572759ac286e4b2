"""Load time, first inference and peak memory of one network, each seen by a process that does nothing else."""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError

from ..engines.bundle import Bundle
from ..engines.nvidia import cuda_pci_id
from ..model.errors import UsageError
from .report import Fresh
from .ways import Way

TIMEOUT_S = 180.0
#: Inferences after the first, before the peak is read.
MORE_CALLS = 2
METHOD = (
    "load time, first inference and peak memory: a fresh process for each, which opens the bundle, imports the "
    f"backend, loads the network (its file in the page cache) and runs it {1 + MORE_CALLS} times on noise; peak is the "
    "kernel's high-water mark of that process"
)


def measure_fresh(bundle: Bundle, way: Way, batch: int) -> Fresh:
    """Run one network in a process of its own.

    Raises:
        UsageError: it cannot run there, or the process died or took too long; the message is the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "fresh.json"
        asked = json.dumps(
            {
                "bundle": str(bundle.path),
                "way": way.to_dict(),
                "batch": batch,
                "result": str(result),
                # Asked for here, since the answer starts CUDA, which the process is to do while it is timed.
                "gpu": cuda_pci_id() if way.on_gpu else None,
            }
        )
        # -P: a file of the folder that is worked in is never taken for a package.
        command = [sys.executable, "-P", "-m", f"{__package__}.fresh_worker", asked]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise UsageError(f"no answer from a fresh process within {TIMEOUT_S:.0f} s") from None
        if not result.is_file():
            raise _ending(done.returncode, done.stderr)
        try:
            return Fresh.model_validate_json(result.read_bytes())
        except ValidationError:
            raise UsageError(json.loads(result.read_bytes())["error"]) from None


def _ending(code: int, complaint: str) -> UsageError:
    if code == -signal.SIGKILL:
        killed = "the fresh process was killed, as the kernel does when memory runs out"
        return UsageError(killed, page="out-of-memory")
    last = complaint.strip().splitlines()[-1:] or ["no message"]
    return UsageError(f"the fresh process ended with code {code}: {last[0]}")
