"""What the embedded server needs of this machine, and how its absence is said."""

import os
from pathlib import Path

import pytest
from coronanet.model.errors import UsageError
from coronanet.serving import installation as module
from coronanet.serving.installation import environment, find_installation, link_backend


def test_everything_that_the_server_needs_is_there() -> None:
    found = find_installation()
    for path in (found.binary, found.backend, found.stub, found.caches, *found.libraries):
        assert path.exists()


def test_the_backend_holds_the_stub_of_this_python() -> None:
    found = find_installation()
    python = link_backend(found) / "python"
    assert (python / "triton_python_backend_stub").resolve() == found.stub.resolve()
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        assert (python / name).is_file()


def test_this_environment_comes_first() -> None:
    found = find_installation()
    variables = environment(found)
    assert variables["LD_LIBRARY_PATH"].split(os.pathsep)[0] == str(found.libraries[0])
    assert (Path(variables["PATH"].split(os.pathsep)[0]) / "python3").exists()


def test_numpy_2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.metadata, "version", lambda _: "2.4.6")
    with pytest.raises(UsageError, match=r"numpy below 2 .*found 2\.4\.6: pip install 'numpy<2'"):
        find_installation()


def test_a_missing_wheel_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"nvidia-pytriton, which is not installed: pip install 'coronanet\[serve\]'"):
        find_installation()
