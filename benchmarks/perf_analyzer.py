"""NVIDIA's `perf_analyzer` as another client of the same server, so that this harness can be held against it.

It is no dependency: the program is found on PATH or named. The Linux wheel of tritonclient up to 2.51 has it, without
two libraries that it needs; where nvidia-pytriton is installed they are there under other names and are lent to it.
"""

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from ..engines.base import Tensors
from ..model.card import explain
from ..model.errors import UsageError
from .load import Block

PROGRAM = "perf_analyzer"
#: What the program is linked against, and how the wheel of nvidia-pytriton names it.
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}
#: Requests of every stream at the start that are not counted: the program opens its connections then.
SETTLE = 1
#: Seconds that a run may take beyond its limit, to start and to write down what it saw.
MARGIN_S = 30.0


def find_perf_analyzer(given: Path | None) -> Path:
    """The program: the one given, else the one on PATH.

    Raises:
        UsageError: there is none, or it does not run here.
    """
    found = given or shutil.which(PROGRAM)
    if found is None or not os.access(found, os.X_OK) or Path(found).is_dir():
        raise UsageError(
            f"cannot run {found or PROGRAM}: expected NVIDIA's program on PATH or named with --perf-analyzer FILE; "
            "`pip download --no-deps tritonclient==2.51.0` has it under data/bin"
        )
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [str(found), "--version"], capture_output=True, text=True, check=False, env=_environment(Path(folder))
        )
    if done.returncode:
        raise UsageError(f"{found} does not run here: {_reason(done)}")
    return Path(found)


class _Request(BaseModel):
    timestamp: int
    response_timestamps: list[int]


class _Experiment(BaseModel):
    requests: list[_Request]


class _Export(BaseModel):
    """What of the program's own record is read; nanoseconds."""

    experiments: list[_Experiment]

    def block(self, *, skip: int) -> Block:
        """The requests but for the first ``skip``; one that has no response failed."""
        requests = sorted(
            (request for each in self.experiments for request in each.requests), key=lambda request: request.timestamp
        )[skip:]
        answered = [request for request in requests if request.response_timestamps]
        return Block(
            latencies_ns=tuple(request.response_timestamps[-1] - request.timestamp for request in answered),
            errors=("no response",) * (len(requests) - len(answered)),
            wall_ns=max((request.response_timestamps[-1] for request in answered), default=0)
            - min((request.timestamp for request in answered), default=0),
        )


class PerfAnalyzer:
    """A number of streams of `perf_analyzer` that ask in a closed loop, for the length of a ``with`` block.

    Args:
        program: as `find_perf_analyzer` found it.
        address: ``HOST:PORT`` of the server's gRPC endpoint.
        feeds: what every request sends, all with the same number of slices.
    """

    def __init__(self, program: Path, address: str, model: str, concurrency: int, feeds: Tensors) -> None:
        self._program, self._address, self._model, self._concurrency = program, address, model, concurrency
        self._batch = len(next(iter(feeds.values())))
        self._shapes = {name: ",".join(map(str, array.shape[1:])) for name, array in feeds.items()}
        self._folder = tempfile.TemporaryDirectory(prefix="coronanet-perf-")
        self._input.write_text(json.dumps(_input_data(feeds)), encoding="utf-8")

    @property
    def concurrency(self) -> int:
        return self._concurrency

    def run(self, requests: int, limit_s: float) -> Block:
        """Let it send ``requests`` requests that count; a run that takes longer than the limit by far is ended.

        Raises:
            UsageError: it ended with an error, or what it wrote down cannot be read.
        """
        work = Path(self._folder.name)
        export = work / "export.json"
        # The program refuses to write over a file.
        export.unlink(missing_ok=True)
        command = [
            str(self._program), "-m", self._model, "-u", self._address, "-i", "grpc", "-b", str(self._batch),
            "--concurrency-range", str(self._concurrency), "--input-data", str(self._input),
            "--request-count", str(requests + SETTLE * self._concurrency), "--profile-export-file", str(export),
            *(part for name, shape in self._shapes.items() for part in ("--shape", f"{name}:{shape}")),
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                check=False,
                cwd=work,
                env=_environment(work),
                timeout=limit_s + MARGIN_S,
            )
        except subprocess.TimeoutExpired:
            raise UsageError(
                f"{PROGRAM} took longer than {limit_s + MARGIN_S:.0f} s for {requests} requests: raise --max-seconds"
            ) from None
        if done.returncode:
            raise UsageError(f"{PROGRAM} failed: {_reason(done)}")
        try:
            return _Export.model_validate_json(export.read_bytes()).block(skip=SETTLE * self._concurrency)
        except (OSError, ValidationError) as error:
            reason = explain(error) if isinstance(error, ValidationError) else error.strerror
            raise UsageError(f"{PROGRAM} left no record that can be read: {reason}") from None

    @property
    def _input(self) -> Path:
        return Path(self._folder.name) / "input.json"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._folder.cleanup()


def _input_data(feeds: Tensors) -> dict[str, Any]:
    """The program's own format: one entry a slice of a request, taken in turn."""
    batch = len(next(iter(feeds.values())))
    return {
        "data": [
            {
                name: {
                    "content": {"b64": base64.b64encode(array[place].tobytes()).decode("ascii")},
                    "shape": list(array.shape[1:]),
                }
                for name, array in feeds.items()
            }
            for place in range(batch)
        ]
    }


def _environment(folder: Path) -> dict[str, str]:
    """This environment, with the libraries that the wheel of nvidia-pytriton has linked into ``folder``."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return dict(os.environ)
    source = Path(next(iter(spec.submodule_search_locations))).parent / "nvidia_pytriton.libs"
    for name, pattern in LIBRARIES.items():
        link = folder / name
        if not link.exists() and (found := next(iter(sorted(source.glob(pattern))), None)):
            link.symlink_to(found)
    # The machine's own libraries first, where it has them.
    known = os.environ.get("LD_LIBRARY_PATH")
    return {**os.environ, "LD_LIBRARY_PATH": f"{known}:{folder}" if known else str(folder)}


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """Why it ended, in one line; with a wrong option it prints all of its help behind."""
    lines = [line.strip() for line in (done.stderr + "\n" + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return next(iter([*errors, *lines[-1:]]), "it said nothing")
