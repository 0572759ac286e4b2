"""`bench report`: one page of whatever was measured, that needs nothing beside it."""

import csv
import html
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from coronanet.benchmarks.bench_serving import limits_of
from coronanet.benchmarks.load import Block, Load
from coronanet.benchmarks.page.build import build_page
from coronanet.benchmarks.page.distribution import Hill, distribution_svg
from coronanet.benchmarks.page.legend import Key
from coronanet.benchmarks.page.lines import Panel, Series, lines_svg
from coronanet.benchmarks.page.scatter import Spot, front
from coronanet.benchmarks.protocol import Protocol
from coronanet.benchmarks.report import (
    Ceilings,
    Comparison,
    EngineReport,
    Fresh,
    GpuLoad,
    LayerBound,
    MemoryLevel,
    ProofReport,
    Report,
    RooflineRecord,
    Stages,
)
from coronanet.benchmarks.serving_report import Budget, RateCase, ServingReport, rate_result
from coronanet.benchmarks.serving_tables import limit_lines
from coronanet.benchmarks.study_report import EngineBlock, StudyCase, StudyReport, StudyRun
from coronanet.benchmarks.tables import gpu_table
from coronanet.benchmarks.timing import NS_PER_MS, NS_PER_S
from coronanet.benchmarks.waterfall_report import WaterfallReport
from coronanet.cli import main
from coronanet.model.card import StrictModel
from coronanet.pages import svg
from rich.console import Console

Browse = Callable[..., str]


@pytest.fixture
def swept(serving: ServingReport, protocol: Protocol) -> ServingReport:
    """``serving`` with two rates, the second of which was too much, and a budget."""
    budget = Budget(latency_ms=12.5, percentile=95)

    def rate(per_s: float, wall_s: float) -> Block:
        return Block(tuple(range(10 * NS_PER_MS, 13 * NS_PER_MS, NS_PER_MS)), (), round(wall_s * NS_PER_S), NS_PER_S)

    rates = tuple(
        rate_result(
            RateCase(target="served", model="coronanet", rate_per_s=per_s, batch=1),
            protocol,
            Load((rate(per_s, wall_s),), 32),
        )
        for per_s, wall_s in ((5.0, 1.0), (50.0, 1.9))
    )
    method = protocol.method.model_copy(update={"verb": "bench serving"})
    return serving.model_copy(
        update={
            "protocol": protocol.model_copy(update={"method": method}),
            "rates": rates,
            "budget": budget,
            "limits": limits_of(serving.results, rates, budget),
        }
    )


@pytest.fixture
def reports(engines: EngineReport, swept: ServingReport, waterfall: WaterfallReport) -> list[Report]:
    return [engines, swept, waterfall]


def words(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)).split())


def test_the_page_says_what_the_reports_say(reports: list[Report]) -> None:
    text = words(build_page(reports))
    for said in (
        "Research software, not a medical device",
        "Networks",
        "onnxruntime fp16",
        "99.9999%",
        "Served, closed loop",
        "Served, open loop",
        "budget: p95 12.5 ms",
        "served at concurrency 2: 0.91 of the throughput of in process",
        "Where the time of a request goes",
        "sum of the parts",
        "concurrency 4: adds up",
        "How this was measured",
        reports[0].protocol.machine.cpu,
    ):
        assert said in text


def test_the_page_needs_nothing_beside_it_and_runs_nothing(reports: list[Report]) -> None:
    page = build_page(reports)
    assert "default-src 'none'" in page
    assert re.findall(r"<script|<link(?! rel=\"icon\")|<iframe|javascript:|\son\w+=\"|url\(|<img", page) == []
    assert re.findall(r'(?:src|href)="(?!data:,")', page) == []
    assert page.count("<svg") >= 6


def test_words_of_a_report_are_escaped(engines: EngineReport) -> None:
    hostile = '<script>alert("x")</script>'
    machine = engines.protocol.machine.model_copy(update={"cpu": hostile})
    skipped = tuple(each.model_copy(update={"reason": hostile}) for each in engines.skipped)
    page = build_page(
        [
            engines.model_copy(
                update={"protocol": engines.protocol.model_copy(update={"machine": machine}), "skipped": skipped}
            )
        ]
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 2


def test_reports_of_different_machines_say_so(engines: EngineReport, swept: ServingReport) -> None:
    machine = swept.protocol.machine.model_copy(update={"cores": 64})
    other = swept.model_copy(update={"protocol": swept.protocol.model_copy(update={"machine": machine})})
    assert "different machines" in words(build_page([engines, other]))
    assert "different machines" not in words(build_page([engines, swept]))


@pytest.fixture
def study(protocol: Protocol) -> StudyReport:
    case = StudyCase(source="phantom, nifti", slices=300, rows=512, columns=512, batch=2, streams=2, engines={})
    run = StudyRun(
        elapsed_s=6.0,
        loading_s=1.0,
        time_to_report_s=9.0,
        stages_s={"read": 3.0, "wait": 4.5, "write": 0.5},
        cpu_s=10.0,
        peak_memory_bytes=2**30,
    )
    method = protocol.method.model_copy(update={"verb": "bench study"})
    return StudyReport(
        protocol=protocol.model_copy(update={"method": method}),
        case=case,
        protocol_sha256="00",
        blocks=(EngineBlock(slices=50, wall_s=1.0),) * 2,
        runs=(run,),
        engine_parts_ms={"networks": 30.0},
        file_bytes=1,
        file_read_s=0.1,
        slices_per_s=50.0,
        engine_slices_per_s=55.0,
        ratio=0.91,
    )


def test_a_study_has_its_stages_drawn_against_the_whole(study: StudyReport) -> None:
    page = build_page([study])
    text = words(page)
    for said in (
        "A whole study",
        "50.0/s",
        "0.91",
        "whole study: 6.00 s",
        "waiting for the networks",
        "4.50",
        "1.00 GiB",
    ):
        assert said in text
    assert page.count("<svg") == 1


def test_every_page_says_that_the_machine_was_busy(
    engines: EngineReport, swept: ServingReport, waterfall: WaterfallReport, study: StudyReport
) -> None:
    for report in (engines, swept, waterfall, study):
        moment = report.protocol.moment.model_copy(update={"busy_share": 0.6})
        busy = report.model_copy(update={"protocol": report.protocol.model_copy(update={"moment": moment})})
        assert "busy machine: 60% of its cores" in words(build_page([busy]))
        assert "busy machine" not in words(build_page([report]))


def test_a_limit_of_an_open_loop_has_what_was_offered_beside_what_was_asked_for(swept: ServingReport) -> None:
    (line,) = [line for line in limit_lines(swept) if "open loop: knee" in line]
    assert "knee at 5 requests a second (3.0 slices/s offered): 3.0 slices/s" in line


def test_a_report_without_charts_of_its_own_is_shown_as_tables(protocol: Protocol) -> None:
    class Row(StrictModel):
        stage: str
        share: float

    class Other(Report):
        slices: int
        rows: tuple[Row, ...]

    text = words(build_page([Other(protocol=protocol, slices=300, rows=(Row(stage="decode <b>", share=0.25),))]))
    assert "figure value slices 300" in text
    assert "stage share decode <b> 0.25" in text


def test_series_differ_without_their_colour() -> None:
    keys = [Key("a", svg.BLUE, "", "circle"), Key("b", svg.BLUE, "7 3", "square")]
    panel = Panel("t", "x", "y", [Series(key, [(1, 1), (2, 2)]) for key in keys], places=[1, 2])
    drawn = lines_svg("t", [panel])
    assert drawn.count('stroke-dasharray="7 3"') == 2
    assert "<circle" in drawn
    assert "<polygon" in drawn


def test_the_front_is_what_nothing_beats() -> None:
    def spot(x: float, y: float, *, good: bool = True) -> Spot:
        return Spot(x, y, Key("k", svg.BLUE), "", good)

    fast, exact, beaten, refused = spot(1, 9), spot(5, 0), spot(6, 1), spot(0.5, 0, good=False)
    assert front([exact, beaten, refused, fast]) == [fast, exact]


def test_axes_read_well() -> None:
    assert svg.Scale(0, 60, 0, 1).ticks(6) == [0, 10, 20, 30, 40, 50, 60]
    assert svg.Scale(1, 100, 0, 1, log=True).ticks(9) == [1, 2, 5, 10, 20, 50, 100]
    assert svg.Scale(1, 1e8, 0, 1, log=True).ticks(9) == [10.0**power for power in range(9)]
    assert svg.Scale(0.01, 500, 0, 1, log=True).ticks(6) == [0.01, 0.1, 1, 10, 100]
    assert svg.log_range([3, 40]) == (2, 50)
    assert svg.log_range([5, 5]) == (2.5, 10)
    assert svg.log_range([3e-11, 4e15]) == (2e-11, 5e15)
    assert svg.ceiling(61) == 80
    assert svg.top(113) == 120
    assert svg.top(0.9) == 1


def test_a_gpu_of_a_petaflop_has_its_roofline_drawn_and_its_calls_taken_apart(engines: EngineReport) -> None:
    result = engines.results[0]
    bound = LayerBound(name="conv", operator="Conv", flops=10**12, bytes=10**9, bound_ms=1.0, limit="compute")
    roof = RooflineRecord(
        precision="fp16", flops=10**12, bytes=10**9, bound_ms=1.0, compute_bound_ms=1.0, share=0.5, layers=(bound,)
    )
    load = GpuLoad(
        seconds=2.0,
        slices=100,
        readings=40,
        energy_j_per_slice=0.0123,
        power_w=345.0,
        sm_clock_mhz=1980.0,
        memory_clock_mhz=2619.0,
        utilisation_share=0.97,
        memory_used_bytes=2 * 10**9,
        temperature_c=41,
        throttles=(),
    )
    on_gpu = result.model_copy(
        update={
            "case": result.case.model_copy(update={"backend": "tensorrt", "graphs": True}),
            "fresh": Fresh(import_ms=1.0, load_ms=2.0, first_ms=3.0, base_bytes=1, peak_bytes=2, gpu_bytes=567 * 10**6),
            "stages": Stages(upload_ns=(10**6,), compute_ns=(2 * 10**6,), download_ns=(10**6,)),
            "gpu": load,
            "roofline": roof,
        }
    )
    ceilings = Ceilings(
        device="gpu",
        flops_per_s={"fp32": 5e13, "fp16": 1e15},
        reached_by={},
        bytes_per_s=4e12,
        memory=(MemoryLevel(working_set_bytes=2**30, bytes_per_s=4e12),),
    )
    report = engines.model_copy(update={"results": (on_gpu,), "ceilings": (ceilings,)})
    console = Console(width=80, record=True)
    console.print(gpu_table(report))
    table = console.export_text()
    for said in ("On the GPU", "tensorrt fp16, graph", "2.000", "1980", "345", "12"):
        assert said in table
    text = words(build_page([report]))
    for said in ("fp16: 1 000 000 GFLOP/s", "tensorrt fp16 graph", "2.000", "12.3", "567"):
        assert said in text


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["bench", "report", *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def write(reports: Sequence[Report], folder: Path) -> list[str]:
    files = [folder / f"{number}.json" for number in range(len(reports))]
    for file, report in zip(files, reports, strict=True):
        file.write_text(report.to_json(), encoding="utf-8")
    return [str(file) for file in files]


def test_the_verb_writes_page_and_sheet(
    reports: list[Report], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.csv"
    code, out, _ = run([*write(reports, tmp_path), "--out", str(page), "--csv", str(sheet), "--json"], capsys)
    assert code == 0
    assert json.loads(out)["reports"] == ["bench engines", "bench serving", "bench waterfall"]
    assert page.read_text(encoding="utf-8") == build_page(reports)
    rows = list(csv.DictReader(sheet.read_text().splitlines()))
    assert [row["verb"] for row in rows] == ["bench engines", *["bench serving"] * 4, *["bench waterfall"] * 2]
    assert [row["loop"] for row in rows] == ["", "closed", "closed", "open", "open", "closed", "closed"]
    assert rows[0]["p50_ms"] == "11.5"


def test_a_proof_has_its_counts_on_the_page_and_is_said_to_have_no_line_of_a_sheet(
    protocol: Protocol, engines: EngineReport, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = protocol.method.model_copy(update={"verb": "bench prove"})
    case = engines.results[0].case
    slower = Comparison(
        case=case,
        a_p50_ms=10,
        b_p50_ms=11,
        ratio=1.104,
        low=1.099,
        high=1.107,
        noise_floor=0.02,
        relative_to=None,
        verdict="slower",
        rounds=12,
    )
    proof = ProofReport(
        protocol=protocol.model_copy(update={"method": method}),
        slowdown=0.1,
        same=(),
        planted=(slower,),
        verdicts={"same": {"noise": 97, "slower": 3}, "planted": {"slower": 100}},
    )
    page, sheet = tmp_path / "page.html", tmp_path / "sheet.csv"
    code, _, error = run([*write([proof], tmp_path), "--out", str(page), "--csv", str(sheet)], capsys)
    assert code == 0
    shown = words(page.read_text(encoding="utf-8"))
    assert "the same thing 97 3" in shown
    assert "B slower by 10% 0 100" in shown
    assert f"{case} 1.104 1.099 to 1.107 2.0% slower" in shown
    assert len(sheet.read_text().splitlines()) == 1
    assert "has comparisons alone" in error


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "bench engines --out"),
        ("[]", "is not a report"),
        ("nonsense", "is not a report"),
        ('{"protocol": {"method": {"verb": "bench engines"}}}', "does not read as this version writes reports"),
        ('{"protocol": {"method": {"verb": "bench compare"}}}', "is not a report"),
    ],
)
def test_what_is_no_report_is_one_line(
    text: str | None, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    code, out, error = run([str(file), "--out", str(tmp_path / "page.html")], capsys)
    assert (code, out) == (2, "")
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


def test_nothing_to_write_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run([str(tmp_path / "file.json")], capsys)
    assert code == 2
    assert "--out page.html" in error


def test_a_browser_shows_and_prints_it_without_a_complaint(
    browse: Browse, reports: list[Report], tmp_path: Path
) -> None:
    page, picture, paper = tmp_path / "page.html", tmp_path / "page.png", tmp_path / "page.pdf"
    page.write_text(build_page(reports), encoding="utf-8")
    log = browse(page, "--window-size=1120,4000", f"--screenshot={picture}")
    assert "CONSOLE" not in log
    shown = cv2.imread(str(picture))
    assert shown is not None
    for colour in (svg.BLUE, svg.VERMILION, svg.SKY):
        bgr = np.array([int(colour[place : place + 2], 16) for place in (5, 3, 1)])
        assert (np.abs(shown.astype(int) - bgr).max(axis=2) < 12).sum() > 50, colour
    browse(page, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    data = paper.read_bytes()
    assert data.startswith(b"%PDF")
    assert 2 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 8


def test_a_sample_a_hair_beyond_a_round_number_is_drawn() -> None:
    picture = distribution_svg(
        "Latency", [Hill("one", [100 * NS_PER_MS], "#000"), Hill("two", [1_000_050_000], "#000")]
    )
    assert picture.count("<polygon") == 2
