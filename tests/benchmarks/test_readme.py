"""The README's numbers are those of the measurements."""

from pathlib import Path

import pytest
from coronanet.benchmarks.protocol import PeerCase
from coronanet.benchmarks.readme import BEGIN, END, README, newest, replace_section, section
from coronanet.benchmarks.report import EngineReport, PeerResult, read_engines

ROOT = Path(__file__).resolve().parents[2]


def test_the_readme_says_what_the_newest_measurement_says() -> None:
    file = newest()
    text = README.read_text(encoding="utf-8")
    wanted = section(read_engines(file), str(file.relative_to(ROOT)))
    assert replace_section(text, wanted) == text, "write it anew: python -m coronanet.benchmarks.readme"


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
    text = section(engines.model_copy(update={"peers": (peer,)}), "docs/measurements/x.json")
    assert "| | lung segmentation |" in text
    assert "| **ours, what `auto` runs** | **11.5** (onnxruntime fp16) |" in text
    assert "| torch eager | 23.0 (2.0 x) † |" in text
    assert "† fewer than 4 rounds of calls" in text
    longer = (one.model_copy(update={"rounds_ns": one.rounds_ns * 4}) for one in (ours, peer))
    results, peers = ((each,) for each in longer)
    assert "†" not in section(engines.model_copy(update={"results": results, "peers": peers}), "docs/x.json")
    assert "[Every sample](docs/measurements/x.json)" in text
    assert text.startswith(BEGIN)
    assert text.endswith(END)


def test_only_what_is_between_the_markers_is_replaced() -> None:
    assert replace_section(f"a\n{BEGIN}\nold\n{END}\nb", f"{BEGIN}\nnew\n{END}") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="markers"):
        replace_section("nothing", "new")
