"""What was proved on this machine about a plan that was built without its GPU, kept in the user's cache.

A bundle never changes, so a plan that its manifest says has not run stays so there; `coronanet verify` runs it, and
what it finds holds for this exact plan, card, margin, runtime and GPU.
"""

import hashlib
import os
from pathlib import Path

from pydantic import ValidationError

from ..model.card import StrictModel
from ..model.errors import RefusedError
from .bundle import Bundle, Evidence, FileRecord, Gate
from .non_inferiority import margin_of
from .places import cache_home
from .plans import Host


class Proof(StrictModel):
    """What the gates found about a plan here; ``non_inferiority`` is None for fp32, which it does not look at."""

    evidence: Evidence
    non_inferiority: Gate | None

    @property
    def refusal(self) -> str:
        """Which gate said no and why; empty where none did."""
        if self.evidence.verdict == "refused":
            return f"parity: {self.evidence.reason}"
        gate = self.non_inferiority
        return f"non-inferiority: {gate.reason}" if gate is not None and gate.verdict == "refused" else ""


def refuse_unproved(bundle: Bundle, record: FileRecord, host: Host) -> None:
    """Hold back a plan that nobody has seen decide as the reference does, neither at export nor here since.

    Raises:
        RefusedError: a gate refused the plan, at export or here, or parity has not run.
    """
    proof = read_proof(bundle, record, host)
    if refusal := record.refusal or (proof.refusal if proof is not None else ""):
        raise RefusedError(f"{bundle.file(record)} did not pass {refusal}: use another precision", page="gate-refused")
    if record.verdicts.get("parity") != "passed" and (proof is None or proof.evidence.verdict != "passed"):
        raise RefusedError(
            f"{bundle.file(record)} has never run, so nothing proves what it decides: "
            f"run `coronanet verify {bundle.path}` on this machine first",
            page="gate-refused",
        )


def read_proof(bundle: Bundle, record: FileRecord, host: Host) -> Proof | None:
    """What the gates last found about a plan here; None where it has not run or its record cannot be read."""
    path = _proof_path(bundle, record, host)
    try:
        return Proof.model_validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError:
        return None


def write_proof(bundle: Bundle, record: FileRecord, host: Host, proof: Proof) -> None:
    """Keep what the gates found about a plan here, whatever it was."""
    path = _proof_path(bundle, record, host)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f"{path.name}.{os.getpid()}")
    work.write_text(proof.model_dump_json(indent=2) + "\n", encoding="utf-8")
    work.replace(path)


def _proof_path(bundle: Bundle, record: FileRecord, host: Host) -> Path:
    """By all that a verdict depends on: the card has the labels, the threshold and the tolerance."""
    here = hashlib.sha256(f"{host} {margin_of(bundle.manifest)} {bundle.card.to_json()}".encode()).hexdigest()
    return cache_home() / "proofs" / f"{record.sha256[:32]}-{here[:16]}.json"
