"""Exporting with plans, again and again, as `coronanet export --tensorrt` does: the set grows, or says what it lost."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from coronanet.cli import main
from coronanet.engines.bundle import Bundle, PlanTarget
from coronanet.engines.keys import SigningKey, write_key_pair
from coronanet.engines.plans import plans_of
from coronanet.export.plan_target import plan_target
from coronanet.export.shipped import export_all
from coronanet.model.tasks import TaskName

TASK: TaskName = "lung_segmentation"
AMPERE, ADA = "sm86-rtx1.7-fp32.plan", "sm89-rtx1.7-fp32.plan"
Export = Callable[..., Bundle]


@pytest.fixture(scope="module")
def targets() -> dict[str, PlanTarget]:
    """Two GPUs that need not be here."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    return {name: plan_target("tensorrt_rtx", compute_capability=name) for name in ("8.6", "8.9")}


@pytest.fixture
def export(
    tiny_source: Path, targets: dict[str, PlanTarget], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Export:
    """Exports the small network, always to the same place, with plans for the GPUs that are named."""
    monkeypatch.setattr("coronanet.engines.slices.data_home", lambda option: option)

    def run(*capabilities: str, max_batch: int = 8, signer: SigningKey | None = None) -> Bundle:
        wanted = tuple(targets[name] for name in capabilities)
        made = export_all([tiny_source], tmp_path, targets=wanted, data=None, max_batch=max_batch, signer=signer)
        # Read from the disk, every hash checked.
        return Bundle.open(made[TASK].path)

    return run


def plan_names(bundle: Bundle) -> list[str]:
    return sorted(Path(record.path).name for record in plans_of(bundle.manifest))


def test_a_set_is_built_for_two_gpus_and_grows_by_exporting_again(export: Export) -> None:
    both = export("8.6", "8.9")
    assert plan_names(both) == [AMPERE, ADA]
    for plan in plans_of(both.manifest):
        assert plan.verdicts == {"parity": "not_run", "precision": "passed"}
        assert plan.target is not None
        assert plan.target.onnx_sha256 == both.require("network").sha256
    again = export()
    assert plans_of(again.manifest) == plans_of(both.manifest)


@pytest.mark.usefixtures("targets")
def test_the_flag_of_the_command_builds_for_each_gpu_that_is_named(
    tiny_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("coronanet.engines.slices.data_home", lambda option: option)
    gpus = ("--compute-capability", "8.6", "--compute-capability", "8.9")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tiny_source), "--tensorrt", *gpus, "--out", str(tmp_path), "--json"])
    assert ended.value.code == 0
    (made,) = json.loads(capsys.readouterr().out)["bundles"]
    assert [Path(file["path"]).name for file in made["files"] if file["path"].endswith(".plan")] == [AMPERE, ADA]
    assert plan_names(Bundle.open(tmp_path / TASK)) == [AMPERE, ADA]


def test_a_plan_that_no_longer_fits_goes_with_a_warning(
    export: Export, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export("8.6")
    assert "replaced" not in capsys.readouterr().err
    larger = export("8.9", max_batch=16)
    assert plan_names(larger) == [ADA]
    assert f"{TASK}: {AMPERE} of the bundle that was replaced went with it" in told(capsys)
    private, _ = write_key_pair(tmp_path / "keys")
    signed = export(max_batch=16, signer=SigningKey.load(private))
    assert plan_names(signed) == [], "a signer does not vouch for what another built"
    assert f"{TASK}: {ADA} of the bundle that was replaced went with it" in told(capsys)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())
