"""Rebuild variance: what changes when the same weights are exported again.

A tracer or a quantizer may choose otherwise the next time. Every ONNX network is built ``--rebuilds`` times, and the
spread of its Dice and the labels that flip between builds stand in the manifest beside its parity. Plans are not: their
bytes differ from build to build, and what one decides shows on its GPU alone.
"""

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..engines.bundle import Bundle, Evidence, Manifest, Precision
from ..engines.non_inferiority import judge
from ..engines.open import ONNX_BACKENDS, file_precision
from ..engines.parity import Reference, compare, labels_of
from ..engines.predictor import Choice, Predictor
from ..engines.ranking import candidates
from ..model.errors import RefusedError
from .making import Making

#: What stands for the score of a task in the gate of non-inferiority.
SCORES = ("dice_change", "auc_change")


@dataclass(frozen=True)
class Build:
    """What one build of a network decided on the slices of the gates, and how far its score is from the reference's."""

    sha256: str
    decisions: tuple[NDArray[Any], ...]
    change: float | None


def with_rebuilds(bundle: Bundle, reference: Reference, making: Making, count: int) -> Manifest:
    """The bundle's manifest with the spread over ``count`` builds, the bundle itself among them, of each network.

    A file that several backends read has the worst of them.
    """
    builds = [_run_all(bundle, reference)]
    for _ in range(count - 1):
        with tempfile.TemporaryDirectory() as folder:
            making.write_graphs(Path(folder))
            builds.append(_run_all(making.write_reduced(Path(folder), reference), reference, must=builds[0]))
    worst: dict[Precision, dict[str, float]] = {}
    for choice in builds[0]:
        found = spread([build[choice] for build in builds if choice in build], reference)
        kept = worst.setdefault(file_precision(choice.backend, choice.precision), {})
        kept.update({name: max(value, kept.get(name, 0.0)) for name, value in found.items()})
    files = tuple(
        record.model_copy(update={"evidence": _with(record.evidence, worst[record.precision])})
        if record.graph == "network" and record.evidence and record.precision in worst
        else record
        for record in bundle.manifest.files
    )
    return bundle.manifest.model_copy(update={"files": files})


def _with(evidence: Evidence, figures: dict[str, float]) -> Evidence:
    return evidence.model_copy(update={"metric": evidence.metric | figures})


def _run_all(bundle: Bundle, reference: Reference, *, must: Collection[Choice] = ()) -> dict[Choice, Build]:
    """Every way that this machine can run; of the build that is published, the ranking says why it cannot run another.

    Args:
        must: the ways that ran the first build.

    Raises:
        RefusedError: one of those does not run this build.
    """
    found: dict[Choice, Build] = {}
    for choice in (each for each in candidates(bundle) if each.backend in ONNX_BACKENDS):
        try:
            with Predictor.open(bundle, choice) as predictor:
                found[choice] = _run(bundle, reference, choice, predictor)
        except Exception as error:  # a runtime that fails raises what it likes
            if choice in must:
                why = f"{choice} ran the first build of these weights and does not run another: {error}"
                raise RefusedError(why, page="gate-refused") from error
    return found


def _run(bundle: Bundle, reference: Reference, choice: Choice, predictor: Predictor) -> Build:
    record = bundle.require("network", file_precision(choice.backend, choice.precision))
    decisions = compare("network", reference, predictor, choice.precision).decisions
    figures = judge(reference, decisions).figures
    return Build(record.sha256, decisions, next((figures[name] for name in SCORES if name in figures), None))


def spread(builds: Sequence[Build], reference: Reference) -> dict[str, float]:
    """How far the builds of one way are apart.

    ``rebuilds`` is their number, ``rebuild_files`` the number of different files among them, ``rebuild_flips`` the
    largest share of labels on which two of them differ, ``rebuild_spread`` the largest difference of Dice or AUC.
    """
    flips = [
        1 - float(np.mean([_agree(one, other, reference) for one, other in zip(a.decisions, b.decisions, strict=True)]))
        for number, a in enumerate(builds)
        for b in builds[:number]
    ]
    changes = [build.change for build in builds if build.change is not None]
    figures = {
        "rebuilds": float(len(builds)),
        "rebuild_files": float(len({build.sha256 for build in builds})),
        "rebuild_flips": max(flips, default=0.0),
    }
    return figures | ({"rebuild_spread": max(changes) - min(changes)} if changes else {})


def _agree(one: NDArray[Any], other: NDArray[Any], reference: Reference) -> float:
    return float(np.mean(labels_of(one, reference.card) == labels_of(other, reference.card)))
