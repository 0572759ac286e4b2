"""Which plan of a set runs on a machine: pure choice, no TensorRT and no GPU."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from coronanet.engines import plans
from coronanet.engines.bundle import Bundle, FileRecord, PlanTarget, Precision, Runtime
from coronanet.engines.cuda_memory import Device
from coronanet.engines.places import bundle_home
from coronanet.engines.plans import Host, build_command, choose_plan, find_hosts, plan_name, require_plans, runs_on
from coronanet.model.errors import UsageError

H100 = Host("tensorrt", "11.1.0.106", "9.0", "NVIDIA H100")
A6000 = Host("tensorrt", "11.1.0.106", "8.6", "NVIDIA RTX A6000")
ADA = Host("tensorrt_rtx", "1.7.1.116", "8.9", "NVIDIA L4")


def target(
    runtime: Runtime = "tensorrt",
    version: str = "11.1.0.106",
    capability: str = "9.0",
    *,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
) -> PlanTarget:
    return PlanTarget(
        runtime=runtime,
        version=version,
        compute_capability=capability,
        gpu=None,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
    )


def plan(bundle: Bundle, made_for: PlanTarget, precision: Precision = "fp16") -> FileRecord:
    network = bundle.require("network")
    return FileRecord.model_validate(
        {
            **network.model_dump(),
            "path": plan_name(made_for, precision),
            "kind": "plan",
            "precision": precision,
            "target": made_for,
        }
    )


def with_plans(bundle: Bundle, *plans: FileRecord, path: Path | None = None) -> Bundle:
    manifest = bundle.manifest.model_copy(update={"files": (*bundle.manifest.files, *plans)})
    return Bundle(path or bundle.path, manifest, bundle.card, bundle.sha256)


@pytest.mark.parametrize(
    ("made_for", "name"),
    [
        (target(), "plans/sm90-trt11.1-fp16.plan"),
        (target("tensorrt_rtx", "1.7.1.116", "8.6"), "plans/sm86-rtx1.7-fp16.plan"),
        (target("tensorrt_rtx", "1.7.1.116", "12.0"), "plans/sm120-rtx1.7-fp16.plan"),
        (target(capability="8.0", hardware_compatible=True), "plans/sm80plus-trt11.1-fp16.plan"),
    ],
)
def test_a_plan_is_named_for_what_it_runs_on(made_for: PlanTarget, name: str) -> None:
    assert plan_name(made_for, "fp16") == name


@pytest.mark.parametrize(
    ("made_for", "host", "runs"),
    [
        (target(), H100, True),
        (target(), A6000, False),
        (target("tensorrt_rtx"), H100, False),
        (target(version="11.1.0.105"), H100, False),
        (target(version="11.1.0.105", version_compatible=True), H100, True),
        (target(version="10.12.0.36", version_compatible=True), H100, True),
        (target(version="11.2.0.1", version_compatible=True), H100, False),
        (target(capability="8.0", hardware_compatible=True), H100, True),
        (target(capability="8.0", hardware_compatible=True), A6000, True),
        (target(capability="8.9", hardware_compatible=True), A6000, False),
        (target("tensorrt_rtx", "1.7.1.116", "8.9"), ADA, True),
        (target("tensorrt_rtx", "1.7.0.1", "8.9"), ADA, False),
    ],
)
def test_version_and_gpu_must_fit_unless_the_plan_was_built_to_be_compatible(
    made_for: PlanTarget, host: Host, runs: bool
) -> None:
    assert runs_on(made_for, host) is runs


def test_of_a_set_the_plan_for_this_gpu_is_chosen_before_a_portable_one(tiny_bundle: Bundle) -> None:
    exact = plan(tiny_bundle, target())
    portable = plan(tiny_bundle, target(capability="8.0", hardware_compatible=True))
    bundle = with_plans(tiny_bundle, portable, plan(tiny_bundle, target(capability="8.9")), exact)
    assert choose_plan(bundle, "fp16", [H100]) == (exact, H100)
    assert choose_plan(bundle, "fp16", [A6000]) == (portable, A6000)


def test_of_two_runtimes_the_preferred_wins_where_it_has_a_plan(tiny_bundle: Bundle) -> None:
    rtx = plan(tiny_bundle, target("tensorrt_rtx", "1.7.1.116", "8.9"))
    full = Host("tensorrt", "11.1.0.106", "8.9", "NVIDIA L4")
    assert choose_plan(with_plans(tiny_bundle, rtx), "fp16", [full, ADA]) == (rtx, ADA)
    both = with_plans(tiny_bundle, rtx, plan(tiny_bundle, target(capability="8.9")))
    assert choose_plan(both, "fp16", [full, ADA])[1] == full


@pytest.mark.parametrize(
    ("made_for", "anchor"),
    [(target(capability="8.9"), "wrong-gpu"), (target(version="10.12.0.36"), "plan-version")],
)
def test_where_none_fits_the_message_has_plans_machine_and_command(
    tiny_bundle: Bundle, made_for: PlanTarget, anchor: str
) -> None:
    bundle = with_plans(tiny_bundle, plan(tiny_bundle, made_for))
    with pytest.raises(UsageError) as error:
        choose_plan(bundle, "fp16", [H100])
    message = str(error.value)
    assert "NVIDIA H100, compute capability 9.0, tensorrt 11.1.0.106" in message
    assert f"only {plan_name(made_for, 'fp16')}" in message
    assert f"`coronanet export {bundle.path} --fp16 --tensorrt --out {bundle.path.parent}`" in message
    assert message.endswith(f"(docs/errors.md#{anchor})")


def test_plans_of_another_precision_do_not_count(tiny_bundle: Bundle) -> None:
    bundle = with_plans(tiny_bundle, plan(tiny_bundle, target(), "fp32"))
    with pytest.raises(UsageError, match=r"has no fp16 TensorRT plan: build one .* --fp16 --tensorrt.*#wrong-gpu"):
        require_plans(bundle, "fp16")
    require_plans(bundle, "fp32")


def test_a_bundle_in_the_usual_place_is_built_by_its_name(tiny_bundle: Bundle) -> None:
    name = tiny_bundle.manifest.name
    usual = with_plans(tiny_bundle, path=bundle_home(None) / name)
    assert build_command(usual, "fp16") == f"coronanet export {name} --fp16 --tensorrt"
    assert build_command(usual, "fp32") == f"coronanet export {name} --tensorrt"


def test_a_gpu_that_no_runtime_here_takes_is_refused_before_a_portable_plan_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    monkeypatch.setattr(plans, "installed_runtimes", lambda: ("tensorrt_rtx",))
    hopper = SimpleNamespace(device=Device("NVIDIA H200", "9.0"), close=lambda: None)
    monkeypatch.setattr(plans, "open_cuda", lambda: hopper)
    with pytest.raises(UsageError, match=r"tensorrt_rtx \S+ does not run on NVIDIA H200, compute capability 9\.0, but"):
        find_hosts()
    ada = SimpleNamespace(device=Device("NVIDIA L4", "8.9"), close=lambda: None)
    monkeypatch.setattr(plans, "open_cuda", lambda: ada)
    assert [host.gpu for host in find_hosts()] == ["NVIDIA L4"]
