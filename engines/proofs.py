"""What was proved on this machine about a plan that was built without its GPU, kept in the user's cache.

A bundle never changes, so a plan that its manifest says has not run stays so there; `coronanet verify` runs it, and
what it finds holds for this exact plan, runtime and GPU.
"""

import hashlib
import os
from pathlib import Path

from pydantic import ValidationError

from ..model.errors import RefusedError
from .bundle import Bundle, Evidence, FileRecord
from .places import cache_home
from .plans import Host


def refuse_unproved(bundle: Bundle, record: FileRecord, host: Host) -> None:
    """Hold back a plan that nobody has seen decide as the reference does, neither at export nor here since.

    Raises:
        RefusedError: parity has not run, or a gate refused the plan.
    """
    refused = [gate for gate, verdict in record.verdicts.items() if verdict == "refused" and gate != "worth_it"]
    if refused:
        raise RefusedError(f"{bundle.file(record)} was refused by the {refused[0]} gate: use another precision")
    proof = read_proof(record, host)
    if record.verdicts.get("parity") != "passed" and (proof is None or proof.verdict != "passed"):
        raise RefusedError(
            f"{bundle.file(record)} has never run, so nothing proves what it decides: "
            f"run `coronanet verify {bundle.path}` on this machine first"
        )


def read_proof(record: FileRecord, host: Host) -> Evidence | None:
    """What parity last found about a plan here; None where it has not run or its record cannot be read."""
    path = _proof_path(record, host)
    try:
        return Evidence.model_validate_json(path.read_bytes()) if path.is_file() else None
    except ValidationError:
        return None


def write_proof(record: FileRecord, host: Host, evidence: Evidence) -> None:
    """Keep what parity found about a plan here, whatever it was."""
    path = _proof_path(record, host)
    path.parent.mkdir(parents=True, exist_ok=True)
    work = path.with_name(f"{path.name}.{os.getpid()}")
    work.write_text(evidence.model_dump_json(indent=2) + "\n", encoding="utf-8")
    work.replace(path)


def _proof_path(record: FileRecord, host: Host) -> Path:
    here = hashlib.sha256(str(host).encode()).hexdigest()
    return cache_home() / "proofs" / f"{record.sha256[:32]}-{here[:16]}.json"
