"""What a plan is built for: this machine's GPU, one that was asked for, or every GPU from Ampere on."""

from typing import Any

import pytest
from coronanet.engines.cuda_memory import Device
from coronanet.export import plan_target as module
from coronanet.export.plan_target import plan_target
from coronanet.model.errors import MissingPackageError, UsageError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The GPU of the machine; none until a test plants one."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    planted: dict[str, Any] = {"gpu": None}
    monkeypatch.setattr(module, "find_device", lambda: planted["gpu"])
    return planted


def test_without_a_gpu_or_a_wish_a_plan_runs_from_ampere_on(machine: dict[str, Any]) -> None:
    target = plan_target("tensorrt_rtx")
    assert (target.compute_capability, target.hardware_compatible, target.gpu) == ("8.0", True, None)
    assert target.version.count(".") == 3


def test_with_a_gpu_a_plan_is_for_it(machine: dict[str, Any]) -> None:
    machine["gpu"] = Device("NVIDIA L4", "8.9")
    target = plan_target("tensorrt_rtx")
    assert (target.compute_capability, target.hardware_compatible, target.gpu) == ("8.9", False, "NVIDIA L4")


def test_a_wish_is_followed_with_or_without_a_gpu(machine: dict[str, Any]) -> None:
    assert plan_target("tensorrt_rtx", compute_capability="12.0").compute_capability == "12.0"
    assert plan_target("tensorrt_rtx", compute_capability="8.6", hardware_compatible=True).compute_capability == "8.0"


@pytest.mark.parametrize("capability", ["9.0", "banana"])
def test_a_gpu_that_the_runtime_does_not_know_is_refused_with_those_it_knows(
    machine: dict[str, Any], capability: str
) -> None:
    with pytest.raises(UsageError, match=rf"knows the compute capabilities 7.5, 8.0.*, not {capability}: use tensorrt"):
        plan_target("tensorrt_rtx", compute_capability=capability)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"version_compatible": True}, "has no version-compatible plans"),
        ({"weight_stripped": True}, "strips weights only beside a GPU"),
        ({"hardware_compatible": True, "compute_capability": "7.5"}, r"needs Ampere \(8.0\) or newer, not 7.5"),
    ],
)
def test_what_the_runtime_cannot_build_here_is_said_at_once(
    machine: dict[str, Any], wish: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan_target("tensorrt_rtx", **wish)


def test_a_runtime_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "installed_runtimes", lambda: ())
    with pytest.raises(MissingPackageError, match=r"tensorrt or tensorrt_rtx, .*coronanet\[rtx\]"):
        plan_target()


class FullTensorRT:
    """What the target asks of the full library, which cannot be installed here."""

    is_rtx = False
    version = "11.1.0.106"


def test_the_full_library_builds_for_the_gpu_at_hand_alone(
    machine: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_runtime", lambda name: FullTensorRT())
    with pytest.raises(UsageError, match="builds on the GPU that will run the plan, and none can be used here"):
        plan_target("tensorrt")
    machine["gpu"] = Device("NVIDIA H100", "9.0")
    target = plan_target("tensorrt", version_compatible=True, weight_stripped=True)
    assert (target.compute_capability, target.version_compatible, target.weight_stripped) == ("9.0", True, True)
    assert plan_target("tensorrt", hardware_compatible=True).compute_capability == "8.0"
    with pytest.raises(UsageError, match=r"builds for the GPU at hand, 9.0, not for 8.6"):
        plan_target("tensorrt", compute_capability="8.6")
