"""What a file's gates say together."""

import pytest
from coronanet.engines.bundle import Bundle, FileRecord, Gate, GateName, Verdict


@pytest.fixture
def record(tiny_bundle: Bundle) -> FileRecord:
    return tiny_bundle.require("network")


def with_gate(record: FileRecord, gate: GateName, verdict: Verdict) -> FileRecord:
    return record.model_copy(update={"gates": (*record.gates, Gate(gate=gate, verdict=verdict, reason=""))})


def test_fp32_is_proved_by_parity_alone(record: FileRecord) -> None:
    assert record.verdicts == {"parity": "passed", "precision": "passed"}
    assert record.is_proved


def test_a_reduced_precision_needs_non_inferiority_too(record: FileRecord) -> None:
    half = record.model_copy(update={"precision": "fp16"})
    assert not half.is_proved
    assert not with_gate(half, "non_inferiority", "not_run").is_proved
    assert with_gate(half, "non_inferiority", "passed").is_proved


def test_one_refusal_is_enough(record: FileRecord) -> None:
    assert not with_gate(record, "precision", "refused").is_proved


def test_a_file_that_is_not_worth_it_here_is_proved_all_the_same(record: FileRecord) -> None:
    assert with_gate(record, "worth_it", "refused").is_proved
