"""The gate that ships belongs to the weights that ship."""

import pytest
from coronanet.engines.bundle import WEIGHTS, Bundle, hash_file
from coronanet.export.shipped import PRETRAINED
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TaskName
from coronanet.serving.gate import shipped_gate, shipped_threshold


def test_it_was_chosen_for_the_weights_that_ship_with_sensitivity_first() -> None:
    gate = shipped_gate()
    assert gate.weights_sha256 == hash_file(PRETRAINED / "classification" / WEIGHTS)
    assert gate.sensitivity >= gate.target_sensitivity >= 0.99
    assert gate.threshold < 0.5
    assert not [source for source in gate.sources if "test" in source]


def test_no_other_weights_get_it(bundles: dict[TaskName, Bundle]) -> None:
    assert shipped_threshold(bundles["classification"]) == shipped_gate().threshold
    with pytest.raises(UsageError, match=r"was not chosen for the weights of .*`coronanet bench triage`"):
        shipped_threshold(bundles["lung_segmentation"])
