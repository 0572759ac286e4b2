"""The adapter over the two TensorRTs, on the one that can be installed anywhere."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from coronanet.engines import tensorrt_runtime as module
from coronanet.engines.bundle import PlanTarget
from coronanet.engines.open import is_installed
from coronanet.engines.tensorrt_runtime import TensorRT, installed_runtimes, load_runtime, numbers_of
from coronanet.model.errors import MissingPackageError, UsageError


@pytest.fixture
def rtx() -> TensorRT:
    if "tensorrt_rtx" not in installed_runtimes():
        pytest.skip("tensorrt_rtx is not installed")
    return load_runtime("tensorrt_rtx")


def test_what_the_library_logs_as_an_error_is_kept(rtx: TensorRT) -> None:
    builder = rtx.api.Builder(rtx.log)
    rtx.messages.clear()
    assert builder.build_serialized_network(rtx.create_network(builder), builder.create_builder_config()) is None
    assert any("Network must have at least one output" in message for message in rtx.messages)


def test_a_network_is_strongly_typed(rtx: TensorRT) -> None:
    network = rtx.create_network(rtx.api.Builder(rtx.log))
    assert network.get_flag(rtx.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_a_target_reaches_the_configuration(rtx: TensorRT) -> None:
    config = rtx.api.Builder(rtx.log).create_builder_config()
    target = PlanTarget(runtime="tensorrt_rtx", version=rtx.version, compute_capability="8.9", gpu=None)
    rtx.apply_target(config, target)
    assert config.num_compute_capabilities == 1
    assert config.get_compute_capability(0) == rtx.api.ComputeCapability.SM89
    stripped = target.model_copy(update={"weight_stripped": True})
    rtx.apply_target(config, stripped)
    assert config.get_flag(rtx.api.BuilderFlag.STRIP_PLAN)
    assert config.get_flag(rtx.api.BuilderFlag.REFIT)


def test_one_runtime_is_one_logger(rtx: TensorRT) -> None:
    assert load_runtime("tensorrt_rtx") is rtx


def test_either_module_is_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace() if name in there else None)
    assert not is_installed("tensorrt")
    there.add("tensorrt_rtx")
    assert is_installed("tensorrt")
    there.add("tensorrt")
    assert installed_runtimes() == ("tensorrt", "tensorrt_rtx")


@pytest.fixture
def imported(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What `import tensorrt` gives, in place of the library that cannot be installed here."""
    planted: dict[str, Any] = {}

    def give(name: str) -> Any:
        if isinstance(planted["module"], Exception):
            raise planted["module"]
        return planted["module"]

    monkeypatch.setattr(module, "installed_runtimes", lambda: ("tensorrt",))
    monkeypatch.setattr(module.importlib, "import_module", give)
    load_runtime.cache_clear()
    yield planted
    load_runtime.cache_clear()


def test_a_runtime_without_its_library_is_one_line(imported: dict[str, Any]) -> None:
    imported["module"] = ImportError("libnvinfer.so.11: cannot open shared object file\nmore")
    with pytest.raises(UsageError, match=r"tensorrt is installed but cannot be imported: libnvinfer.so.11: .* file$"):
        load_runtime("tensorrt")


@pytest.mark.parametrize(("version", "enough"), [("10.11.0.33", False), ("10.12.0.36", True), ("11.1.0.106", True)])
def test_a_runtime_that_is_too_old_is_refused(imported: dict[str, Any], version: str, enough: bool) -> None:
    imported["module"] = SimpleNamespace(__version__=version, ILogger=object)
    if enough:
        assert load_runtime("tensorrt").version == version
    else:
        with pytest.raises(UsageError, match=r"expected tensorrt 10.12 or newer, found 10.11.0.33"):
            load_runtime("tensorrt")


def test_a_runtime_that_is_missing_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "installed_runtimes", lambda: ())
    load_runtime.cache_clear()
    with pytest.raises(MissingPackageError, match=r"coronanet\[gpu\]"):
        load_runtime("tensorrt")


def test_versions_compare_as_numbers() -> None:
    assert numbers_of("11.10.0.1") > numbers_of("11.9.0.2")
    assert numbers_of("12.0") > numbers_of("8.6")


@pytest.mark.parametrize(("capability", "runs"), [("8.6", True), ("9.0", False), ("7.0", False), ("13.0", True)])
def test_tensorrt_rtx_runs_on_the_gpus_that_it_names_and_on_newer_ones(
    rtx: TensorRT, capability: str, runs: bool
) -> None:
    assert rtx.takes_gpu(capability) is runs
