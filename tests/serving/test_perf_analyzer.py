"""NVIDIA's own load generator against the ensemble, with no help from our code."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from coronanet.serving.server import TritonServer

#: What the program is linked against, and how the wheel of nvidia-pytriton names it.
LIBRARIES = {"libb64.so.0d": "libb64-*.so.0d", "libcudart.so.12": "libcudart-*.so.12*"}


def test_perf_analyzer_loads_the_ensemble(triton_server: TritonServer, tmp_path: Path) -> None:
    program = shutil.which("perf_analyzer")
    if program is None:
        pytest.skip(
            "no perf_analyzer on PATH: `.ci/run` fetches it into .ci/cache, as `pip download --no-deps "
            "tritonclient==2.51.0` does, which has it under data/bin of the wheel"
        )
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    for name, pattern in LIBRARIES.items():
        (found,) = (Path(spec.origin).parent.parent / "nvidia_pytriton.libs").glob(pattern)
        (tmp_path / name).symlink_to(found)
    options = {
        "-m": "coronanet",
        "-u": triton_server.address,
        "-i": "grpc",
        "--shape": "image:256,256",
        "--concurrency-range": "2",
        "--request-count": "20",
    }
    done = subprocess.run(
        [program, *(part for pair in options.items() for part in pair)],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "Throughput:" in done.stdout
