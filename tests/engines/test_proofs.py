"""A plan that has not run is held back until parity passed on this very machine."""

from dataclasses import replace
from pathlib import Path

import pytest
from coronanet.engines.bundle import Bundle, FileRecord, Gate, Verdict
from coronanet.engines.plans import Host
from coronanet.engines.proofs import Proof, read_proof, refuse_unproved, write_proof
from coronanet.export.to_tensorrt import NOT_RUN
from coronanet.model.errors import RefusedError

HERE = Host("tensorrt_rtx", "1.7.1.116", "8.9", "NVIDIA L4")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CORONANET_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def record(tiny_bundle: Bundle) -> FileRecord:
    """The record of a plan that has not run."""
    return tiny_bundle.require("network").model_copy(update={"kind": "plan", "evidence": NOT_RUN})


def proof(verdict: Verdict) -> Proof:
    reason = "too far off" if verdict == "refused" else ""
    return Proof(evidence=NOT_RUN.model_copy(update={"verdict": verdict, "reason": reason}), non_inferiority=None)


def test_a_plan_that_never_ran_is_refused_with_the_command_that_runs_it(
    tiny_bundle: Bundle, record: FileRecord
) -> None:
    with pytest.raises(
        RefusedError, match=rf"has never run.*`coronanet verify {tiny_bundle.path}` on this machine.*#gate-refused"
    ):
        refuse_unproved(tiny_bundle, record, HERE)


def test_a_plan_that_passed_at_export_is_taken(tiny_bundle: Bundle, record: FileRecord) -> None:
    evidence = tiny_bundle.require("network").evidence
    refuse_unproved(tiny_bundle, record.model_copy(update={"evidence": evidence}), HERE)


def test_a_plan_that_passed_here_is_taken_here_alone(tiny_bundle: Bundle, record: FileRecord) -> None:
    write_proof(tiny_bundle, record, HERE, proof("passed"))
    refuse_unproved(tiny_bundle, record, HERE)
    with pytest.raises(RefusedError, match="has never run"):
        refuse_unproved(tiny_bundle, record, replace(HERE, version="1.7.2.0"))
    with pytest.raises(RefusedError, match="has never run"):
        refuse_unproved(tiny_bundle, record.model_copy(update={"sha256": "0" * 64}), HERE)


def test_what_was_proved_by_another_card_or_margin_proves_nothing(tiny_bundle: Bundle, record: FileRecord) -> None:
    write_proof(tiny_bundle, record, HERE, proof("passed"))
    card = tiny_bundle.card.model_copy(update={"tolerance": 0.5})
    judged = Gate(gate="non_inferiority", verdict="passed", reason="", figures={"margin": 0.5})
    other_margin = tiny_bundle.manifest.model_copy(update={"files": (record.model_copy(update={"gates": (judged,)}),)})
    for bundle in (
        Bundle(tiny_bundle.path, tiny_bundle.manifest, card, ""),
        Bundle(tiny_bundle.path, other_margin, tiny_bundle.card, ""),
    ):
        with pytest.raises(RefusedError, match="has never run"):
            refuse_unproved(bundle, record, HERE)


def test_a_plan_that_failed_here_since_is_no_longer_taken(tiny_bundle: Bundle, record: FileRecord) -> None:
    passed_at_export = record.model_copy(update={"evidence": tiny_bundle.require("network").evidence})
    for plan in (record, passed_at_export):
        write_proof(tiny_bundle, plan, HERE, proof("refused"))
        with pytest.raises(RefusedError, match="did not pass parity: too far off"):
            refuse_unproved(tiny_bundle, plan, HERE)


def test_a_plan_that_decides_worse_here_is_no_longer_taken(tiny_bundle: Bundle, record: FileRecord) -> None:
    gate = Gate(gate="non_inferiority", verdict="refused", reason="dice changes by -0.2")
    write_proof(tiny_bundle, record, HERE, Proof(evidence=proof("passed").evidence, non_inferiority=gate))
    with pytest.raises(RefusedError, match=r"did not pass non-inferiority: dice changes by -0\.2"):
        refuse_unproved(tiny_bundle, record, HERE)


def test_a_refused_gate_holds_a_plan_back_whatever_parity_says(tiny_bundle: Bundle, record: FileRecord) -> None:
    write_proof(tiny_bundle, record, HERE, proof("passed"))
    gate = Gate(gate="precision", verdict="refused", reason="")
    with pytest.raises(RefusedError, match="did not pass precision"):
        refuse_unproved(tiny_bundle, record.model_copy(update={"gates": (gate,)}), HERE)


def test_a_damaged_record_proves_nothing(own_cache: Path, tiny_bundle: Bundle, record: FileRecord) -> None:
    write_proof(tiny_bundle, record, HERE, proof("passed"))
    (file,) = (own_cache / "proofs").iterdir()
    file.write_text("{")
    assert read_proof(tiny_bundle, record, HERE) is None
