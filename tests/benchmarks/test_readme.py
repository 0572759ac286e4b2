"""The README's numbers are those of the measurements."""

import re
from pathlib import Path

import pytest
from coronanet.benchmarks import readme
from coronanet.benchmarks.protocol import EngineCase, PeerCase
from coronanet.benchmarks.readme import (
    BEGIN,
    END,
    NO_GPU,
    OWN_SLICES,
    README,
    SHARED_SLICES,
    current,
    replace_section,
    section,
)
from coronanet.benchmarks.report import EngineReport, PeerResult


def test_the_readme_says_what_the_newest_measurement_says() -> None:
    text = README.read_text(encoding="utf-8")
    assert replace_section(text, current()) == text, "write it anew: python -m coronanet.benchmarks.readme"


def test_no_milliseconds_stand_outside_the_section_and_those_of_a_script_say_that_it_was_not_kept() -> None:
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    assert re.findall(r"[\d.]+ ms\b", before + rest.partition(END)[2]) == []
    decision = README.parent / "docs" / "decisions" / "0026-a-gpu-without-a-plan.md"
    assert "medians of the kernels alone, of a script that was not kept" in decision.read_text(encoding="utf-8")


def on_gpu(report: EngineReport) -> EngineReport:
    """A run on a GPU, with a peer that takes twice as long."""
    (result,) = report.results
    case = EngineCase(task="lung_segmentation", backend="torch_cuda", precision="fp16", batch=8, threads=None)
    statistics = result.statistics.model_copy(update={"p50_ms": 0.72})
    peer = PeerResult(
        case=PeerCase(task="lung_segmentation", peer="torch cuda", batch=8, threads=None),
        protocol_sha256="0",
        description="",
        max_difference=0.0,
        warm_up_ns=(),
        rounds_ns=tuple(tuple(2 * ns for ns in one) for one in result.rounds_ns * 4),
        statistics=statistics.model_copy(update={"p50_ms": 1.44}),
        noise_floor=None,
        warnings=(),
    )
    ours = result.model_copy(update={"case": case, "statistics": statistics, "rounds_ns": result.rounds_ns * 4})
    machine = report.protocol.machine.model_copy(update={"gpus": ("Planted H100",)})
    protocol = report.protocol.model_copy(update={"machine": machine})
    return report.model_copy(update={"results": (ours,), "peers": (peer,), "protocol": protocol})


def test_a_gpu_has_rows_where_the_harness_measured_one_and_is_said_to_be_missing_where_it_did_not(
    engines: EngineReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    (tmp_path / "2026-01-01-cpu-engines.json").write_text(engines.to_json())
    assert f"\n{NO_GPU}\n{END}" in current(tmp_path)
    assert "H100" not in current(tmp_path)
    # Later, and yet not what the table of the CPU is written from.
    (tmp_path / "2026-02-01-gpu-engines.json").write_text(on_gpu(engines).to_json())
    text = current(tmp_path)
    assert NO_GPU not in text
    assert "[Every sample](2026-01-01-cpu-engines.json)" in text
    assert "On Planted H100, " in text
    assert "[2026-02-01-gpu-engines](2026-02-01-gpu-engines.json)" in text
    assert "| lung segmentation | 8 | **0.72** (torch_cuda fp16) | 1.4 (2.0 x) (torch cuda) |" in text


def test_a_gpu_on_which_nothing_was_proved_has_no_table_and_counts_as_not_measured(engines: EngineReport) -> None:
    proved = on_gpu(engines)
    (result,) = proved.results
    unproved = proved.model_copy(update={"results": (result.model_copy(update={"parity": None}),)})
    text = section(engines, "x.json", {"unproved.json": unproved})
    assert "unproved" not in text
    assert NO_GPU in text
    text = section(engines, "x.json", {"unproved.json": unproved, "proved.json": proved})
    assert "unproved" not in text
    assert "[proved](proved.json)" in text


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("a1b2c3d4" * 5, "a1b2c3d"),
        (f"{'a1b2c3d4' * 5}+", "a1b2c3d+"),
        (f"{'a1b2c3d4' * 5}?", "a1b2c3d?"),
        ("0.1.0.dev12", "0.1.0.dev12"),
        ("unknown?", "unknown?"),
    ],
)
def test_a_commit_is_shortened_and_a_version_is_not(engines: EngineReport, source: str, said: str) -> None:
    software = engines.protocol.software.model_copy(update={"source": source})
    protocol = engines.protocol.model_copy(update={"software": software})
    assert f"of source {said}, on " in section(engines.model_copy(update={"protocol": protocol}), "x.json", {})


def test_int8_whose_ranges_came_from_slices_of_the_gates_is_said_to_be_that(engines: EngineReport) -> None:
    def said(precision: str, started: str) -> bool:
        (result,) = engines.results
        case = result.case.model_copy(update={"precision": precision})
        protocol = engines.protocol.model_copy(
            update={"moment": engines.protocol.moment.model_copy(update={"started": started})}
        )
        changed = {"results": (result.model_copy(update={"case": case}),), "protocol": protocol}
        return SHARED_SLICES in section(engines.model_copy(update=changed), "x.json", {})

    assert said("int8", "2026-11-27T18:33:44+00:00")
    assert not said("int8", OWN_SLICES)
    assert not said("fp16", "2026-11-27T18:33:44+00:00")


def test_peers_stand_beside_ours_with_how_many_times_as_long_they_took(engines: EngineReport) -> None:
    (ours,) = engines.results
    case = PeerCase(task="lung_segmentation", peer="torch eager", batch=1, threads=None)
    peer = PeerResult(
        case=case,
        protocol_sha256="0",
        description="",
        max_difference=0.0,
        warm_up_ns=(),
        rounds_ns=ours.rounds_ns,
        statistics=ours.statistics.model_copy(update={"p50_ms": 23.0}),
        noise_floor=None,
        warnings=(),
    )
    text = section(engines.model_copy(update={"peers": (peer,)}), "docs/measurements/x.json", {})
    assert "| | lung segmentation |" in text
    assert "| **ours, what `auto` runs** | **11.5** (onnxruntime fp16) |" in text
    assert "| torch eager | 23.0 (2.0 x) † |" in text
    assert "† fewer than 4 rounds of calls" in text
    longer = (one.model_copy(update={"rounds_ns": one.rounds_ns * 4}) for one in (ours, peer))
    results, peers = ((each,) for each in longer)
    assert "†" not in section(engines.model_copy(update={"results": results, "peers": peers}), "docs/x.json", {})
    assert "[Every sample](docs/measurements/x.json)" in text
    assert text.startswith(BEGIN)
    assert text.endswith(END)


def test_only_what_is_between_the_markers_is_replaced() -> None:
    assert replace_section(f"a\n{BEGIN}\nold\n{END}\nb", f"{BEGIN}\nnew\n{END}") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="markers"):
        replace_section("nothing", "new")
