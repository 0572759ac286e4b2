"""Plans are run against the reference where they can run, and what came out is remembered."""

from collections.abc import Callable
from pathlib import Path

import pytest
from coronanet.engines.bundle import Bundle, FileRecord, Precision
from coronanet.engines.cuda_memory import Device, find_device
from coronanet.engines.parity import Reference
from coronanet.engines.plans import Host
from coronanet.engines.predictor import REFERENCE, Choice, Predictor
from coronanet.engines.proofs import read_proof, refuse_unproved
from coronanet.engines.slices import GateSlices, phantom_slices
from coronanet.export import plan_parity as module
from coronanet.export.plan_parity import prove_plans

WithPlan = Callable[[Bundle, Precision], Bundle]


@pytest.fixture(scope="module")
def planned(tiny_bundle: Bundle, with_plan: WithPlan) -> Bundle:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    return with_plan(tiny_bundle, "fp32")


@pytest.fixture(scope="module")
def reference(planned: Bundle) -> Reference:
    with Predictor.open(planned, REFERENCE) as predictor:
        phantom = phantom_slices()
        slices = GateSlices(phantom.name, phantom.samples[:2], real=False)
        return Reference.of(predictor, planned.card, slices, name=str(REFERENCE))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path))


def plan_of(bundle: Bundle) -> FileRecord:
    (record,) = (record for record in bundle.manifest.files if record.kind == "plan")
    return record


@pytest.mark.skipif(find_device() is not None, reason="a GPU is here")
def test_without_a_gpu_nothing_is_found_and_nothing_fails(planned: Bundle, reference: Reference) -> None:
    assert prove_plans(planned, reference) == {}


def test_what_parity_found_opens_the_plan_from_then_on(
    planned: Bundle, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime runs the network in the plan's place, as if a GPU were there."""
    record = plan_of(planned)
    assert record.target is not None
    here = Host(record.target.runtime, record.target.version, "8.9", "NVIDIA L4")
    opened: list[tuple[Choice, bool]] = []
    open_predictor = Predictor.open

    def open_another(bundle: Bundle, choice: Choice, *, unproved: bool = False) -> Predictor:
        opened.append((choice, unproved))
        return open_predictor(bundle, Choice("onnxruntime", choice.precision))

    monkeypatch.setattr(module, "find_hosts", lambda: (here,))
    monkeypatch.setattr(module.Predictor, "open", open_another)
    found = prove_plans(planned, reference)
    assert opened == [(Choice("tensorrt", "fp32"), True)]
    assert {path: found_.verdicts["parity"] for path, found_ in found.items()} == {record.path: "passed"}
    proof = read_proof(planned, record, here)
    assert proof is not None
    assert proof.evidence == found[record.path].evidence
    refuse_unproved(planned, record, here)


def test_a_plan_that_fails_has_not_run_for_its_reason(
    planned: Bundle, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = plan_of(planned)
    assert record.target is not None
    here = Host(record.target.runtime, record.target.version, "8.9", "NVIDIA L4")

    def open_nothing(*_: object, **__: object) -> Predictor:
        raise RuntimeError("CUDA error 700\nat line 7")

    monkeypatch.setattr(module, "find_hosts", lambda: (here,))
    monkeypatch.setattr(module.Predictor, "open", open_nothing)
    (found,) = prove_plans(planned, reference).values()
    assert found.evidence is not None
    assert (found.evidence.verdict, found.evidence.reason) == ("not_run", "CUDA error 700")
    assert read_proof(planned, record, here) is None


@pytest.mark.gpu
def test_a_plan_decides_what_torch_decides(gpu: Device, planned: Bundle, reference: Reference) -> None:
    (record,) = prove_plans(planned, reference).values()
    assert record.verdicts["parity"] == "passed", record.refusal
