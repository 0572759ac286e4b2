import json
from pathlib import Path

import pytest
from coronanet.benchmarks.load import Block, Load
from coronanet.benchmarks.protocol import LoadCase, Protocol
from coronanet.benchmarks.report import (
    EngineReport,
    Parity,
    Skipped,
    Statistics,
    read_engines,
    write_text,
)
from coronanet.benchmarks.serving_report import ServingReport, load_result, read_serving
from coronanet.benchmarks.serving_tables import ratio_lines, serving_notes, serving_table
from coronanet.benchmarks.tables import engine_notes, engines_table, skipped_lines, summary_table
from coronanet.benchmarks.timing import NS_PER_MS, NS_PER_S, Samples, WarmUp
from coronanet.model.errors import UsageError
from rich.console import Console
from rich.table import Table


def shown(table: Table) -> str:
    console = Console(width=80, record=True)
    console.print(table)
    return console.export_text()


def test_json_has_raw_samples_units_schema_and_protocol(engines: EngineReport) -> None:
    value = json.loads(engines.to_json())
    assert value["schema_version"] == 2
    assert value["units"]["_ns"] == "nanoseconds"
    assert value["units"]["_per_s"] == "slices a second"
    assert value["units"]["flops_per_s"] == "operations a second"
    assert "not a medical device" in value["notice"]
    assert value["protocol"]["method"]["verb"] == "bench engines"
    (result,) = value["results"]
    assert result["rounds_ns"] == [[ms * NS_PER_MS for ms in (10, 11, 12, 13)]]
    assert result["warm_up_ns"] == [99, 98]
    assert result["statistics"]["p50_ms"] == pytest.approx(11.5)
    assert len(result["protocol_sha256"]) == 64


def test_load_keeps_every_burst_and_counts_failures_without_the_address(serving: ServingReport) -> None:
    served = json.loads(serving.to_json())["results"][0]
    assert [burst["latencies_ns"] for burst in served["bursts"]] == [[ms * NS_PER_MS for ms in (10, 11, 12, 13)]] * 2
    assert served["errors"] == {"RuntimeError: refused by ADDRESS": 2}
    assert served["requests"] == 10
    assert served["statistics"]["throughput_per_s"] == pytest.approx(4.0)


def test_what_is_written_can_be_read(engines: EngineReport, serving: ServingReport, tmp_path: Path) -> None:
    write_text(tmp_path / "sub" / "engines.json", engines.to_json())
    write_text(tmp_path / "serving.json", serving.to_json())
    assert read_engines(tmp_path / "sub" / "engines.json") == engines
    assert read_serving(tmp_path / "serving.json") == serving


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "report.json"
    write_text(file, "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match=r"cannot write .*No space left.*--out"):
        write_text(file, "new")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_of_another_kind_is_one_line(engines: EngineReport, tmp_path: Path) -> None:
    file = tmp_path / "engines.json"
    write_text(file, engines.to_json())
    with pytest.raises(UsageError, match="not a report of `coronanet bench serving`") as caught:
        read_serving(file)
    assert len(str(caught.value)) < 400
    with pytest.raises(UsageError, match="bench engines --out"):
        read_engines(tmp_path / "missing.json")


def test_engines_table_shows_what_matters_and_never_rounds_parity_up(engines: EngineReport) -> None:
    text = shown(engines_table(engines))
    for part in ("lung x1", "onnxruntime *", "fp16", "11.5", "99.9999%", "87.0"):
        assert part in text
    assert "100%" not in text
    notes = engine_notes(engines)
    assert any("few samples" in note for note in notes)
    assert "skipped lung_segmentation openvino bf16: this CPU has no bfloat16 arithmetic" in notes


def test_what_was_skipped_is_gathered_by_reason() -> None:
    tasks = ("classification", "binary_segmentation", "lung_segmentation")
    no_bf16 = "this CPU has no bfloat16 arithmetic"
    skipped = [
        *(
            Skipped(what=f"{task} tensorrt fp16{graphs}", reason=f"{task} has no plan: `coronanet export {task}`")
            for task in tasks
            for graphs in ("", " without CUDA graphs")
        ),
        *(Skipped(what=f"{task} openvino bf16", reason=no_bf16) for task in tasks[:2]),
        Skipped(what="lung_segmentation torch bf16", reason=no_bf16),
        Skipped(what="lung_segmentation broken", reason="lung_segmentation is broken"),
        Skipped(what="roofline", reason="onnx is not installed"),
    ]
    assert skipped_lines(skipped) == [
        "skipped tensorrt fp16, tensorrt fp16 without CUDA graphs (classification, binary, lung): NETWORK has no plan: "
        "`coronanet export NETWORK`",
        f"skipped openvino bf16 (classification, binary): {no_bf16}",
        f"skipped lung_segmentation torch bf16: {no_bf16}",
        "skipped lung_segmentation broken: lung_segmentation is broken",
        "skipped roofline: onnx is not installed",
    ]


def test_three_samples_have_no_spread(engines: EngineReport) -> None:
    (result,) = engines.results
    few = result.model_copy(update={"statistics": Statistics.of(Samples(tuple(ms * NS_PER_MS for ms in (10, 11, 12))))})
    assert "13%" in shown(engines_table(engines))
    assert "0%" not in shown(engines_table(engines.model_copy(update={"results": (few,)})))


def test_a_refused_network_is_called_so(engines: EngineReport) -> None:
    (result,) = engines.results
    for parity, said in (
        (Parity(label_agreement=0.5, verdict="refused", source="export"), "refused"),
        (None, "not run"),
    ):
        report = engines.model_copy(update={"results": (result.model_copy(update={"parity": parity}),)})
        assert said in shown(engines_table(report))


def test_serving_table_and_notes_show_failures_and_disagreement(serving: ServingReport) -> None:
    text = shown(serving_table(serving))
    assert "served, concurrency 2" in text
    assert "in process, 2 streams x 1 thread" in text
    notes = " ".join(serving_notes(serving))
    assert "2 x RuntimeError: refused by ADDRESS" in notes
    assert "lung_mask: served and in process differ on 5.00e-01 of the labels" in notes
    assert "0.91 of the throughput" in ratio_lines(serving)[0]


def test_a_target_that_answered_nothing_is_in_the_table(protocol: Protocol, load_case: LoadCase) -> None:
    dead = Load((Block((), ("boom",) * 3, NS_PER_S),), 2)
    report = ServingReport(
        protocol=protocol,
        results=(load_result(load_case, protocol, WarmUp((1,), stable=True), dead),),
        agreement=(),
        ratios=(),
    )
    assert report.results[0].statistics is None
    assert "0.0" in shown(serving_table(report))


def test_summary_has_networks_and_the_ensemble_served_and_in_process(
    engines: EngineReport, serving: ServingReport
) -> None:
    text = shown(summary_table(engines, serving))
    for part in ("lung", "onnxruntime *", "2.1", "Triton, 2 asking", "local, 2 x 1 thr", "50.0000%"):
        assert part in text
    assert "Triton" not in shown(summary_table(engines, None))


def test_no_table_is_wider_than_a_terminal(engines: EngineReport, serving: ServingReport) -> None:
    (result,) = engines.results
    slow = Statistics.of(Samples((12_345 * NS_PER_MS,) * 2))
    long = result.model_copy(
        update={
            "case": result.case.model_copy(update={"task": "classification"}),
            "statistics": slow,
        }
    )
    report = engines.model_copy(update={"results": (result, long)})
    wide = Console(width=200, record=True)
    for table in (engines_table(report), serving_table(serving), summary_table(report, serving)):
        wide.print(table)
    lines = wide.export_text().splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
