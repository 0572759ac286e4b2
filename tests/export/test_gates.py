"""The gates inside an export, and again when a bundle is verified."""

from pathlib import Path

import pytest
from coronanet.engines.bundle import Bundle, Gate, GateName, Manifest, Verdict
from coronanet.engines.open import file_precision
from coronanet.engines.ranking import Ranked, read_ranking
from coronanet.engines.slices import GateSlices
from coronanet.export import pipeline, ranges
from coronanet.export.cli import gates_table
from coronanet.export.gates import prove_again
from coronanet.export.options import Wanted
from coronanet.export.ranges import Extent

from .conftest import slices_of


@pytest.fixture(scope="module")
def slices(tiny_bundle: Bundle) -> GateSlices:
    return slices_of(tiny_bundle)


@pytest.fixture(scope="module")
def exported(tiny_source: Path, slices: GateSlices, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small network with fp16, exported on a machine where that takes twice as long."""
    measure = pipeline.measure

    def measure_slow(*arguments: object, **options: object) -> tuple[Ranked, ...]:
        ways = measure(*arguments, **options)  # pyright: ignore[reportArgumentType]
        ms = {"fp32": 10.0, "fp16": 20.0}
        timed = [
            way.model_copy(update={"latency_ms": way.latency_ms and ms[file_precision(way.backend, way.precision)]})
            for way in ways
        ]
        return tuple(sorted(timed, key=lambda way: way.latency_ms or float("inf")))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "measure", measure_slow)
        return pipeline.export_bundle(tiny_source, tmp_path_factory.mktemp("slow"), slices, Wanted(half=True))


def gate_of(manifest: Manifest, name: GateName) -> Gate:
    """What a gate says of the fp16 network."""
    record = manifest.graph("network", "fp16")
    assert record is not None
    return next(gate for gate in record.gates if gate.gate == name)


def test_a_file_that_is_slower_is_exported_with_that_verdict_and_not_chosen(exported: Bundle) -> None:
    gate = gate_of(exported.manifest, "worth_it")
    assert gate.verdict == "refused"
    assert gate.reason.endswith("not selected")
    assert gate.figures["speedup"] == 0.5
    assert exported.require("network", "fp16").is_proved
    ranking = read_ranking(exported)
    assert ranking is not None
    assert ranking.best.precision != "fp16"


@pytest.mark.parametrize(
    ("verdict", "speedup", "cell"), [("passed", 1.5, "yes, x 1.50 here"), ("refused", 1.01, "no, x 1.01 here")]
)
def test_the_table_says_whether_a_file_is_worth_it_and_by_how_much(
    exported: Bundle, verdict: Verdict, speedup: float, cell: str
) -> None:
    worth = Gate(gate="worth_it", verdict=verdict, reason="", figures={"speedup": speedup})
    record = exported.require("network", "fp16").model_copy(update={"gates": (worth,)})
    manifest = exported.manifest.model_copy(update={"files": (record,)})
    (column,) = (each for each in gates_table({exported.card.task: manifest}).columns if each.header == "worth-it")
    assert list(column.cells) == [cell]


def test_the_range_gate_runs_again_and_names_the_node_that_the_file_does_not_keep(
    exported: Bundle, slices: GateSlices, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert gate_of(exported.manifest, "range").verdict == "passed"
    assert gate_of(prove_again(exported, slices), "range").verdict == "passed"
    monkeypatch.setattr(ranges, "measure_ranges", lambda *_: {"logits": Extent(1e6, 1.0)})
    gate = gate_of(prove_again(exported, slices), "range")
    assert gate.verdict == "refused"
    assert gate.reason.startswith(f"float16 cannot hold what {gate.nodes[0]} see here")
