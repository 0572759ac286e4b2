"""What a server tells of the networks that it runs, and what a report says of them.

`coronanet serve` writes it into the configurations of its own copy of the repository, as parameters that every client
can ask for. It is what the server says of itself: the skew gate is what looks whether it decides so.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..model.errors import UsageError
from .report import UNTOLD, ModelRecord
from .repository import CONFIG
from .step import STEP
from .step_file import StepFile
from .triton_config import parse_config, render_config

if TYPE_CHECKING:
    from ..engines.triton_engine import TritonEngine

BUNDLE, BACKEND, PRECISION = "bundle_sha256", "backend", "precision"


def tell(snapshot: Path) -> None:
    """Write into each network's configuration in a server's copy of the repository what it runs."""
    for path in snapshot.glob(f"*/*/{STEP}"):
        step = StepFile.model_validate_json(path.read_bytes())
        if step.graph != "network":
            continue
        file = path.parent.parent / CONFIG
        config: Any = parse_config(file.read_text(encoding="utf-8"))
        for name, value in ((BUNDLE, step.bundle_sha256), (BACKEND, step.backend), (PRECISION, step.precision)):
            config.parameters[name].string_value = value
        file.unlink()  # the copy of a file that may not be written may not be written either
        file.write_text(render_config(config), encoding="utf-8")


def served_models(ensemble: "TritonEngine") -> tuple[ModelRecord, ...]:
    """What a report says about networks behind a Triton server; one that is not ours does not tell its hashes."""
    steps = {step.model for step in ensemble.steps}
    return tuple(_told(ensemble, record) if record.task in steps else record for record in UNTOLD)


def _told(ensemble: "TritonEngine", untold: ModelRecord) -> ModelRecord:
    try:
        told = ensemble.parameters_of(untold.task)
    except UsageError:  # it is being brought back, or asks a key for this alone: the study is worth more
        return untold
    if not {BUNDLE, BACKEND, PRECISION} <= told.keys():
        return untold
    return ModelRecord(untold.task, told[BUNDLE], f"triton, {told[BACKEND]}", told[PRECISION])
