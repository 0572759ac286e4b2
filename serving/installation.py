"""Where the ``nvidia-pytriton`` wheel put NVIDIA's Triton server, and what it needs of this machine to run.

The wheel is never imported: the binary in it runs on an ordinary model repository.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from ..engines.bundle import publish
from ..engines.places import cache_home
from ..model.errors import MissingPackageError, UsageError

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class Installation:
    """Where the wheel put what Triton needs."""

    binary: Path
    backend: Path
    stub: Path
    caches: Path
    libraries: tuple[Path, ...]


def find_installation() -> Installation:
    """Triton's files in the ``nvidia-pytriton`` wheel, which is never imported.

    Raises:
        MissingPackageError: the wheel is not installed.
        UsageError: numpy 2 or newer, or a Python that Triton has no stub or no library for.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError("nvidia-pytriton", purpose="the embedded Triton server", extra="serve")
    if int(importlib.metadata.version("numpy").split(".")[0]) >= 2:
        raise UsageError(
            f"the embedded Triton server needs numpy below 2 (newer ones corrupt its tensors silently), "
            f"found {importlib.metadata.version('numpy')}: pip install 'numpy<2'"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    root = package / "tritonserver"
    stub = root / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise UsageError(f"the embedded Triton server has no model process for Python {PYTHON}: use Python 3.11")
    return Installation(
        binary=root / "bin" / "tritonserver",
        backend=root / "backends" / "python",
        stub=stub,
        caches=root / "caches",
        libraries=(_python_library_folder(), package.parent / "nvidia_pytriton.libs"),
    )


def environment(installation: Installation) -> dict[str, str]:
    """The environment of the server: this interpreter's library first, this environment's `python3` first."""
    libraries = ":".join(str(folder) for folder in installation.libraries)
    # The model processes take the `python3` that they find first, and with it this environment's packages.
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return {**os.environ, "LD_LIBRARY_PATH": libraries, "PATH": path}


def link_backend(installation: Installation) -> Path:
    """A backend folder in the cache that holds the stub of this Python's version beside the rest."""
    key = hashlib.sha256(str(installation.stub).encode()).hexdigest()[:12]
    backends = cache_home() / "triton" / f"backends-{key}"
    if not backends.is_dir():
        names = ("libtriton_python.so", "triton_python_backend_utils.py")
        with publish(backends) as work:
            (work / "python").mkdir()
            for file in (*(installation.backend / name for name in names), installation.stub):
                (work / "python" / file.name).symlink_to(file)
    return backends


def _python_library_folder() -> Path:
    """Where this interpreter's shared library is, which the model processes load."""
    name = f"libpython{PYTHON}.so.1.0"
    folders = [sysconfig.get_config_var(key) for key in ("LIBDIR", "LIBPL")]
    multiarch = sysconfig.get_config_var("MULTIARCH")
    candidates = [Path(folder) for folder in folders if folder]
    candidates += [folder / multiarch for folder in candidates if multiarch]
    for folder in candidates:
        if (folder / name).exists():
            return folder
    raise UsageError(
        f"the embedded Triton server needs {name}, which is not in {candidates[0]}: install it "
        f"(Debian: libpython{PYTHON}), or use a Python that was built with --enable-shared"
    )
