"""What a build measured of kernels is kept for the next one; what cannot be used costs a warning and is replaced.

TensorRT itself cannot be installed everywhere, and TensorRT-RTX keeps no such file: this one goes through the motions.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from coronanet.engines.bundle import Bundle, PlanTarget
from coronanet.engines.places import HOME_VARIABLE
from coronanet.engines.tensorrt_runtime import TensorRT
from coronanet.export import to_tensorrt
from coronanet.export.to_tensorrt import build_plan
from coronanet.model.errors import UsageError

MEASURED = b"timings of this build"
TARGET = PlanTarget(runtime="tensorrt", version="11.1.0.106", compute_capability="8.9", gpu="NVIDIA L4")
#: How TensorRT says that a file is no cache: in its log alone, with nothing in place of a cache, or when it is set.
Says = Literal["log", "nothing", "no"]


class FakeTensorRT:
    """Builds a plan of nothing, and keeps which timings it was given.

    Attributes:
        given: what each cache was made of.
        used: what the one was made of that the build had.
        says: how it says that timings are not its own.
        plan: what a build gives.
    """

    def __init__(self) -> None:
        self.given: list[bytes] = []
        self.used: bytes | None = None
        self.says: Says = "log"
        self.plan: bytes | None = b"plan"
        nothing = SimpleNamespace()
        config = SimpleNamespace(
            clear_flag=lambda _: None,
            add_optimization_profile=lambda _: None,
            create_timing_cache=self._create,
            set_timing_cache=self._set,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: MEASURED),
        )
        builder = SimpleNamespace(
            create_network=lambda _: SimpleNamespace(num_layers=0),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: SimpleNamespace(set_shape=lambda *_: None),
            build_serialized_network=lambda *_: self.plan,
        )

        class Logger:
            Severity = SimpleNamespace(ERROR=1)

        class Monitor:
            pass

        api = SimpleNamespace(
            __version__=TARGET.version,
            ILogger=Logger,
            IProgressMonitor=Monitor,
            Builder=lambda _: builder,
            OnnxParser=lambda *_: SimpleNamespace(parse_from_file=lambda _: True),
            BuilderFlag=SimpleNamespace(TF32=nothing),
            ProfilingVerbosity=SimpleNamespace(DETAILED=nothing),
            NetworkDefinitionCreationFlag=SimpleNamespace(STRONGLY_TYPED=0),
            HardwareCompatibilityLevel=SimpleNamespace(SAME_COMPUTE_CAPABILITY=nothing),
        )
        self.runtime = TensorRT("tensorrt", api)

    def _create(self, content: bytes) -> Any:
        self.given.append(content)
        broken = content not in (b"", MEASURED)
        if broken and self.says == "log":
            self.runtime.log.log(
                1, "Serialization assertion magicTagRead == kMAGIC_TAG failed. Magic tag does not match"
            )
        return None if broken and self.says == "nothing" else SimpleNamespace(content=content)

    def _set(self, cache: Any, ignore_mismatch: bool) -> bool:
        if self.says == "no" and cache.content not in (b"", MEASURED):
            return False
        self.used = cache.content
        return True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTensorRT:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "home"))
    fake = FakeTensorRT()
    monkeypatch.setattr(to_tensorrt, "load_runtime", lambda _: fake.runtime)
    return fake


@pytest.fixture
def build(fake: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path) -> Callable[[], object]:
    return lambda: build_plan(tmp_path / "work", tiny_bundle.require("network"), TARGET)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Where the timings are kept, by version and model of GPU."""
    return tmp_path / "home" / "timing" / "tensorrt-11.1.0.106-NVIDIA-L4.cache"


def test_a_build_begins_with_what_the_last_one_measured(
    fake: FakeTensorRT, build: Callable[[], object], kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build()
    assert fake.used == b""
    assert kept.read_bytes() == MEASURED
    build()
    assert fake.used == MEASURED
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("says", ["log", "nothing", "no"])
def test_a_file_that_cannot_be_used_is_left_out_with_a_warning_and_replaced(
    fake: FakeTensorRT, build: Callable[[], object], kept: Path, capsys: pytest.CaptureFixture[str], says: Says
) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"no timings")
    fake.says = says
    build()
    assert fake.given == [b"no timings", b""]
    assert fake.used == b""
    assert f"warning: {kept} cannot be used" in capsys.readouterr().err
    assert kept.read_bytes() == MEASURED


def test_a_build_that_fails_afterwards_is_not_laid_at_its_door(
    fake: FakeTensorRT, build: Callable[[], object], kept: Path
) -> None:
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"no timings")
    fake.plan = None
    with pytest.raises(UsageError, match=r"cannot build sm89-trt11\.1-fp32\.plan .*: TensorRT gave no reason"):
        build()
    assert kept.read_bytes() == b"no timings"
