"""Which plans NVIDIA's container gets, in its configuration and in the repository."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
from coronanet.engines.bundle import Bundle, FileRecord, Gate, PlanTarget, Precision, Runtime, Verdict, hash_file
from coronanet.engines.open import Backend
from coronanet.engines.plans import plan_name
from coronanet.engines.predictor import Choice
from coronanet.engines.ranking import Ranked, Ranking
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TaskName
from coronanet.serving import repository
from coronanet.serving.container_plans import container_plans, without_plans
from coronanet.serving.repository import embedded_choices, fill_repository
from coronanet.serving.triton_config import parse_config, render_configs

TASK: TaskName = "lung_segmentation"


def plan(
    bundle: Bundle,
    precision: Precision = "fp16",
    *,
    runtime: Runtime = "tensorrt",
    version: str = "11.1.0.106",
    capability: str = "9.0",
    parity: Verdict = "passed",
    worth_it: Verdict = "passed",
    **compatible: Any,
) -> FileRecord:
    """A plan of the tiny network whose gates passed, unless told otherwise."""
    fields = {"runtime": runtime, "version": version, "compute_capability": capability, "gpu": "a GPU", **compatible}
    target = PlanTarget.model_validate(fields)
    network = bundle.require("network")
    assert network.evidence is not None
    path = plan_name(target, precision)
    (bundle.path / path).parent.mkdir(exist_ok=True)
    (bundle.path / path).write_bytes(path.encode())
    return network.model_copy(
        update={
            "path": path,
            "sha256": hashlib.sha256(path.encode()).hexdigest(),
            "kind": "plan",
            "precision": precision,
            "evidence": network.evidence.model_copy(update={"verdict": parity}),
            "gates": (
                Gate(gate="non_inferiority", verdict="passed", reason=""),
                Gate(gate="worth_it", verdict=worth_it, reason=""),
            ),
            "target": target,
        }
    )


@pytest.fixture
def bundle(tiny_bundle: Bundle, tmp_path: Path) -> Bundle:
    copy = tmp_path / TASK
    shutil.copytree(tiny_bundle.path, copy)
    return Bundle(copy, tiny_bundle.manifest, tiny_bundle.card, tiny_bundle.sha256)


def with_plans(bundle: Bundle, *plans: FileRecord) -> Bundle:
    manifest = bundle.manifest.model_copy(update={"files": (*bundle.manifest.files, *plans)})
    return Bundle(bundle.path, manifest, bundle.card, bundle.sha256)


def config_of(bundle: Bundle) -> Any:
    return parse_config(render_configs({TASK: bundle})[TASK]["tensorrt"])


def test_each_compute_capability_gets_its_plan(bundle: Bundle) -> None:
    config = config_of(with_plans(bundle, plan(bundle), plan(bundle, capability="8.6")))
    assert dict(config.cc_model_filenames) == {"9.0": "sm90-trt11.1-fp16.plan", "8.6": "sm86-trt11.1-fp16.plan"}
    assert (config.platform, config.default_model_filename) == ("tensorrt_plan", "model.plan")


def test_a_portable_plan_is_for_every_other_gpu(bundle: Bundle) -> None:
    config = config_of(with_plans(bundle, plan(bundle), plan(bundle, capability="8.0", hardware_compatible=True)))
    assert dict(config.cc_model_filenames) == {"9.0": "sm90-trt11.1-fp16.plan"}
    assert config.default_model_filename == "sm80plus-trt11.1-fp16.plan"


@pytest.mark.parametrize(
    "plain",
    [
        {"runtime": "tensorrt_rtx", "version": "1.7.1.116"},
        {"parity": "not_run"},
        {"parity": "refused"},
        {"weight_stripped": True},
        {"version_compatible": True},
        {"worth_it": "refused"},
    ],
    ids=str,
)
def test_what_triton_cannot_run_or_nobody_proved_never_goes_there(
    bundle: Bundle, plain: dict[str, Any], tmp_path: Path
) -> None:
    planned = with_plans(bundle, plan(bundle, **plain))
    assert container_plans(planned).records == ()
    assert without_plans({TASK: planned}) == (TASK,)
    assert not config_of(planned).cc_model_filenames
    fill_repository({TASK: planned}, tmp_path / "repository", {TASK: Choice()})
    assert not list((tmp_path / "repository").rglob("*.plan"))


def test_of_a_gpus_plans_the_newest_version_wins_then_the_fastest_precision(bundle: Bundle) -> None:
    precisions: tuple[Precision, ...] = ("int8", "fp16", "fp32")
    plans = [plan(bundle, precision) for precision in precisions]
    assert container_plans(with_plans(bundle, *plans)).records == (plans[0],)
    newer = plan(bundle, "fp32", version="11.10.0.1")
    older = plan(bundle, "int8", version="11.9.0.1")
    assert container_plans(with_plans(bundle, *plans, newer, older)).records == (newer,)


def test_the_repository_gets_the_plans_that_its_configuration_names(bundle: Bundle, tmp_path: Path) -> None:
    planned = with_plans(bundle, plan(bundle), plan(bundle, capability="8.0", hardware_compatible=True))
    fill_repository({TASK: planned}, tmp_path / "repository", {TASK: Choice()})
    copied = {path.name: hash_file(path) for path in (tmp_path / "repository").rglob("*.plan")}
    assert copied == {Path(record.path).name: record.sha256 for record in container_plans(planned).records}
    assert len(copied) == 2
    assert {path.parent.parent.name for path in (tmp_path / "repository").rglob("*.plan")} == {TASK}


def test_a_plan_is_never_what_the_embedded_server_runs(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = with_plans(bundle, plan(bundle))
    with pytest.raises(UsageError, match="cannot be served by tensorrt: expected onnxruntime or openvino"):
        fill_repository({TASK: planned}, tmp_path / "repository", {TASK: Choice("tensorrt", "fp16")})
    found: dict[Backend, Verdict] = {"tensorrt": "passed", "openvino": "refused", "onnxruntime": "passed"}
    ways = [
        Ranked(
            backend=backend,
            precision="fp32",
            verdict=verdict,
            reason="",
            latency_ms=1.0,
            evidence=None,
            non_inferiority=None,
        )
        for backend, verdict in found.items()
    ]
    ranking = Ranking(bundle_sha256=planned.sha256, machine={}, ways=tuple(ways))
    monkeypatch.setattr(repository, "read_ranking", lambda _: ranking)
    assert embedded_choices({TASK: planned}, {TASK: Choice("tensorrt", "fp16")}) == {
        TASK: Choice("onnxruntime", "fp32")
    }
    assert embedded_choices({TASK: planned}, {TASK: Choice("openvino", "bf16")}) == {TASK: Choice("openvino", "bf16")}
    # Of what it can run, what is as fast beside each other, not beside the plan.
    (_, _, exact), quick = ways, ways[-1].model_copy(update={"precision": "int8", "latency_ms": 9.95})
    slower = ranking.model_copy(update={"ways": (ways[0], quick, exact.model_copy(update={"latency_ms": 10.0}))})
    monkeypatch.setattr(repository, "read_ranking", lambda _: slower)
    assert embedded_choices({TASK: planned}, {TASK: Choice("tensorrt", "fp16")}) == {
        TASK: Choice("onnxruntime", "fp32")
    }
    monkeypatch.setattr(repository, "read_ranking", lambda _: None)
    with pytest.raises(UsageError, match="nothing that passed here runs in the embedded server"):
        embedded_choices({TASK: planned}, {TASK: Choice("tensorrt", "fp16")})
