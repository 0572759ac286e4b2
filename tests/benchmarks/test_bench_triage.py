"""Choosing the gate and measuring it: sensitivity first, and never on the group that it is measured on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from coronanet.benchmarks.bench_triage import Kind, Seen, choose_threshold, measure_served, measure_triage
from coronanet.engines.base import EngineBase, Tensors
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import IMAGE, Choice, ensemble_output
from coronanet.engines.samples import Sample, Split
from coronanet.engines.slices import phantom_slices
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TaskName
from numpy.typing import NDArray


def _seen(probabilities: Sequence[float], *, drawn: int = 1, kind: Kind = "lesion") -> list[Seen]:
    return [Seen("g", kind, probability, drawn) for probability in probabilities]


@pytest.mark.parametrize(("target", "expected"), [(1.0, 0.1), (0.9, 0.2), (0.89, 0.2), (0.8, 0.3), (0.5, 0.6)])
def test_the_gate_is_the_highest_that_keeps_the_sensitivity(target: float, expected: float) -> None:
    infected = _seen([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    threshold = choose_threshold(infected, target)
    assert threshold == pytest.approx(expected)
    assert np.mean([each.probability >= threshold for each in infected]) >= target


def test_slices_without_a_lesion_and_effusions_do_not_count() -> None:
    others = [*_seen([0.01, 0.02], drawn=0), *_seen([0.01], kind="effusion")]
    assert choose_threshold([*others, *_seen([0.5])], 1.0) == 0.5
    with pytest.raises(UsageError, match="no slice with a drawn lesion"):
        choose_threshold(others, 1.0)


def test_rounding_lets_no_infected_slice_go() -> None:
    assert choose_threshold(_seen([0.123456]), 1.0) == 0.1234


@pytest.fixture(scope="module")
def split() -> Split:
    """Slices of the phantom as a training and two held-back volumes, one of them as if only effusion were drawn."""
    samples = [sample for sample in phantom_slices().samples if sample.labels.any()][:6]
    assert len(samples) == 6

    def of(group: str, chosen: Sequence[Sample]) -> tuple[Sample, ...]:
        return tuple(replace(sample, group=group, supervision="types") for sample in chosen)

    effusion = tuple(replace(sample, group="plethora-2", supervision="effusion") for sample in samples[4:])
    return Split(of("a", samples[:2]), (*of("b", samples[2:4]), *effusion), ("phantom",), "hash")


def test_a_group_is_measured_with_a_gate_that_was_chosen_without_it(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], split: Split
) -> None:
    heard: list[str] = []
    report = measure_triage(bundles, choices, split, 1.0, advance=heard.append)
    assert heard == ["training slices", "held-back slices"]
    assert (report.gate.slices, report.gate.infected, report.gate.sensitivity) == (4, 4, 1.0)
    lesion, effusion = report.groups
    assert (lesion.group, lesion.kind, effusion.group, effusion.kind) == ("b", "lesion", "plethora-2", "effusion")
    assert report.gate.threshold == min(lesion.threshold, effusion.threshold)
    assert lesion.segmented + lesion.missed == lesion.slices == lesion.drawn_slices == 2
    assert (lesion.drawn_lost == 0) == (lesion.missed == 0)
    if lesion.missed == 0:
        assert lesion.dice_gated == lesion.dice
    weights = [record.sha256 for record in bundles["classification"].manifest.files if record.kind == "weights"]
    assert [report.gate.weights_sha256] == weights


def test_what_is_gated_away_is_lost(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], split: Split
) -> None:
    one = replace(split, train=tuple(replace(sample, labels=sample.labels * 0) for sample in split.train))
    airless = replace(one.validation[0], image=np.full_like(one.validation[0].image, -1000), group="c")
    held = (one.validation[1], airless)
    report = measure_triage(bundles, choices, replace(one, validation=held), 1.0)
    (result,) = [each for each in report.groups if each.group == "c"]
    assert (result.slices, result.segmented, result.missed, result.drawn_lost) == (1, 0, 1, 1.0)
    assert result.dice_gated == 0.0


class _Served(EngineBase):
    """Says of a slice what its first pixel says."""

    def __init__(self, calls: list[str], name: str) -> None:
        super().__init__((IMAGE,), (ensemble_output("classification"),), 8)
        self.calls, self.name = calls, name

    def infer(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        assert feeds["image"].shape == (1, 2, 2)
        self.calls.append(self.name)
        return {"infected_probability": feeds["image"][:, :1, 0] / np.float32(100)}


def test_both_served_models_take_turns() -> None:
    calls: list[str] = []
    slices = [(group, np.full((2, 2), value, np.int16)) for group, value in (("a", 5), ("a", 60), ("b", 70), ("b", 90))]
    results = measure_served(slices, _Served(calls, "whole"), _Served(calls, "gated"), 0.5)
    assert [(result.group, result.slices, result.segmented) for result in results] == [("a", 2, 1), ("b", 2, 2)]
    assert calls[:2] == ["whole", "gated"], "each is warmed up"
    assert calls[2:] == ["gated", "whole", "whole", "gated"] * 2
    for result in results:
        assert result.saved == pytest.approx(1 - result.triage_s / result.ensemble_s)
