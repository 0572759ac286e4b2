"""The gate of ``coronanet_triage`` that ships: which probability, and which classification it was chosen for."""

from importlib.resources import files

from pydantic import Field

from ..engines.bundle import Bundle
from ..model.card import StrictModel
from ..model.errors import UsageError

GATE = "gate.json"


class Gate(StrictModel):
    """``gate.json``: the part ``gate`` of the report that `coronanet bench triage` writes.

    Slices whose ``infected_probability`` is below ``threshold`` are not segmented. It is the highest that
    ``target_sensitivity`` of the ``infected`` slices reach, in training and validation data alone.
    """

    threshold: float = Field(ge=0, le=1)
    target_sensitivity: float
    sensitivity: float
    slices: int
    infected: int
    sources: tuple[str, ...]
    data_sha256: str
    weights_sha256: str


def shipped_gate() -> Gate:
    """The gate that was chosen for the weights that ship."""
    return Gate.model_validate_json((files(__package__ or "") / GATE).read_bytes())


def shipped_threshold(classification: Bundle) -> float:
    """The gate that ships, as a probability, for the weights that it was chosen for and no others.

    Raises:
        UsageError: the bundle has other weights.
    """
    gate = shipped_gate()
    weights = [record.sha256 for record in classification.manifest.files if record.kind == "weights"]
    if weights != [gate.weights_sha256]:
        raise UsageError(
            f"the gate that ships was not chosen for the weights of {classification.path}: choose one with "
            "`coronanet bench triage`, and give it as --triage-threshold"
        )
    return gate.threshold
