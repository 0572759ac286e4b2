"""What a server tells of the networks that it runs, and what a report says of them.

`coronanet serve` writes it into the configurations of its own copy of the repository, as parameters that every client
can ask for. It is what the server says of itself: the skew gate is what looks whether it decides so.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..engines.bundle import Precision
from ..engines.open import Backend
from ..model.errors import UsageError
from .report import UNTOLD, ModelRecord
from .repository import CONFIG
from .step import STEP
from .step_file import StepFile
from .triton_config import parse_config, render_config

if TYPE_CHECKING:
    from ..engines.triton_engine import TritonEngine

BUNDLE, BACKEND, PRECISION = "bundle_sha256", "backend", "precision"
BACKENDS, PRECISIONS = get_args(Backend), get_args(Precision)


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
    """What a report says about the networks behind a Triton server, as it tells when it is asked."""
    steps = {step.model for step in ensemble.steps}
    try:
        told = {record.task: ensemble.parameters_of(record.task) for record in UNTOLD if record.task in steps}
    except UsageError:  # a model is being brought back, or nobody answers: the study is worth more than its record
        return UNTOLD
    return tuple(_record(untold, told.get(untold.task, {})) for untold in UNTOLD)


def _record(untold: ModelRecord, told: Mapping[str, str]) -> ModelRecord:
    """What is told, where it is all there and nothing else: a server that is not ours may say anything."""
    bundle, backend, precision = (told.get(name, "") for name in (BUNDLE, BACKEND, PRECISION))
    if not re.fullmatch("[0-9a-f]{64}", bundle) or backend not in BACKENDS or precision not in PRECISIONS:
        return untold
    return ModelRecord(untold.task, bundle, f"{backend} on triton", precision)
