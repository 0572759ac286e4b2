"""`bench serving` and `bench waterfall` against a real Triton server, with a network that takes no time to make."""

import csv
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from coronanet.benchmarks import bench_waterfall
from coronanet.benchmarks.bench_serving import in_process_targets
from coronanet.benchmarks.bench_waterfall import Probe, measure_waterfall
from coronanet.benchmarks.inputs import phantom_slices
from coronanet.benchmarks.load import LoadPlan
from coronanet.benchmarks.schemas import document_schema
from coronanet.benchmarks.timing import WarmUpRule
from coronanet.cli import main
from coronanet.engines.base import Tensors
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.model.errors import UsageError
from coronanet.serving.addresses import ANY_PORTS
from coronanet.serving.repository import fill_repository
from coronanet.serving.server import TritonServer
from numpy.typing import NDArray

# In the process of the other servers, which take up to 5 GB each.
pytestmark = pytest.mark.xdist_group("servers")
ROOT = Path(__file__).resolve().parents[2]
STEPS = {"preprocess", "lung_segmentation", "decide_lung_segmentation"}


@pytest.fixture(scope="module")
def server(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The embedded server with the ensemble of one small network, its trace ready."""
    folder = tmp_path_factory.mktemp("served")
    repository = folder / "triton_repo"
    fill_repository({"lung_segmentation": tiny_bundle}, repository, {"lung_segmentation": Choice(threads=1)})
    with TritonServer(
        repository, ports=ANY_PORTS, log=folder / "log", trace=folder / "traces" / "trace.json"
    ) as running:
        yield running


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def valid(text: str, name: str) -> dict[str, Any]:
    """The report, which fits its published schema."""
    value = json.loads(text)
    jsonschema.validate(value, document_schema(name))
    return value


def test_a_sweep_has_both_loops_the_knee_and_what_a_budget_allows(
    server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, sheet = tmp_path / "serving.json", tmp_path / "serving.csv"
    options = ["--concurrency", "1,2", "--requests", "40", "--rate", "5,20", "--rate-seconds", "3", "--seed", "7"]
    budget = ["--budget-ms", "10000", "--percentile", "p95"]
    arguments = ["serving", "--server", server.address, *options, *budget, "--out", str(file), "--csv", str(sheet)]
    code, out, _ = run(arguments, capsys)
    assert code == 0
    assert "Open loop" in out
    assert "coronanet, closed loop: knee at concurrency" in out
    assert "p95 within 10000 ms" in out
    value = valid(file.read_text(), "bench-serving")
    assert value["protocol"]["method"]["plan"]["arrivals"] == {"seconds": 3.0, "seed": 7, "streams": 32}
    slow, fast = value["rates"]
    assert (slow["case"]["rate_per_s"], fast["case"]["rate_per_s"]) == (5.0, 20.0)
    assert slow["requests"] == sum(len(burst["latencies_ns"]) for burst in slow["bursts"]) > 5
    assert {limits["loop"] for limits in value["limits"]} == {"closed", "open"}
    # Everything keeps a budget of ten seconds: the best is the load with the largest throughput.
    closed = next(limits for limits in value["limits"] if limits["loop"] == "closed")
    assert closed["best_per_s"] == max(result["statistics"]["throughput_per_s"] for result in value["results"])
    rows = list(csv.DictReader(sheet.read_text().splitlines()))
    assert [row["loop"] for row in rows] == ["closed", "closed", "open", "open"]
    assert float(rows[0]["p50_ms"]) == pytest.approx(value["results"][0]["statistics"]["p50_ms"], rel=1e-4)
    assert server.address not in file.read_text()


def test_every_step_can_be_put_under_load(server: TritonServer, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "all", "--concurrency", "1", "--requests", "5", "--max-seconds", "20"]
    code, out, _ = run(["serving", "--server", server.address, *options, "--json"], capsys)
    assert code == 0
    value = valid(out, "bench-serving")
    assert {result["case"]["model"] for result in value["results"]} == {"coronanet", *STEPS}
    assert all(result["statistics"]["count"] >= 5 and not result["errors"] for result in value["results"])


def test_a_budget_that_nothing_keeps_is_said(server: TritonServer, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--concurrency", "1", "--requests", "5", "--budget-ms", "0.001"]
    code, out, _ = run(["serving", "--server", server.address, *options], capsys)
    assert code == 0
    assert "no load of this sweep keeps p99 within 0.001 ms: the best is" in out


def test_a_request_is_taken_apart_and_adds_up(
    server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "waterfall.json"
    options = ["--concurrency", "1,4", "--requests", "40", "--served-only", "--out", str(file)]
    code, out, _ = run(["waterfall", "--server", server.address, *options], capsys)
    assert code == 0, out
    value = valid(file.read_text(), "bench-waterfall")
    assert [result["case"]["concurrency"] for result in value["results"]] == [1, 4]
    for result in value["results"]:
        sums = result["reconciliation"]
        assert sums["adds_up"]
        assert sums["one_clock"]
        assert sums["traced"] == sums["requests"] >= 40
        assert sum(part["share"] for part in result["parts"]) == pytest.approx(1, abs=0.05)
        assert {step["model"] for step in result["steps"]} == STEPS
        # A chain without branches: every request waits for every step.
        assert all(step["on_path"] == 1 for step in result["steps"])
        assert result["steps"][0]["model"] == "preprocess"
    assert "seen by the client" in out

    def measured() -> Iterator[list[dict[str, Any]]]:
        yield value["results"]
        while run(["waterfall", "--server", server.address, *options], capsys)[0] == 0:
            yield json.loads(file.read_text())["results"]

    # Whatever else a machine does can fill the queue of one request, but hardly three times.
    assert any(queue(crowded) > queue(alone) for alone, crowded in islice(measured(), 3))


def queue(result: dict[str, Any]) -> float:
    return next(part["mean_ms"] for part in result["parts"] if part["name"] == "queue")


def test_one_step_is_taken_apart_too(server: TritonServer, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "preprocess", "--concurrency", "1", "--requests", "20", "--json"]
    code, out, _ = run(["waterfall", "--server", server.address, *options], capsys)
    assert code == 0
    (result,) = valid(out, "bench-waterfall")["results"]
    assert [step["model"] for step in result["steps"]] == ["preprocess"]
    assert result["reconciliation"]["adds_up"]


@pytest.mark.parametrize(("every", "code"), [(7, 1), (1, 2)])
def test_requests_that_fail_are_counted_and_end_in_a_no(
    server: TritonServer, every: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    infer, calls = Probe.infer, count(1)

    def fails_at_times(self: Probe, feeds: Tensors) -> dict[str, NDArray[Any]]:
        if next(calls) % every == 0:
            raise UsageError("the server went away")
        return infer(self, feeds)

    monkeypatch.setattr(Probe, "infer", fails_at_times)
    monkeypatch.setattr(bench_waterfall, "warm_up", lambda *_: None)
    options = ["--concurrency", "2", "--requests", "40", "--served-only", "--json"]
    found, out, error = run(["waterfall", "--server", server.address, *options], capsys)
    assert found == code
    if every == 1:
        assert "expected answers at concurrency 2, found none: UsageError: the server went away" in error
        return
    value = json.loads(out)
    (failures,) = value["results"][0]["errors"].values()
    assert failures > 10
    assert f"{failures} requests failed" in error
    # Where the machine is busy, others stand beside it.
    assert any(f"failures: {failures} of " in warning for warning in value["results"][0]["warnings"])


def test_a_tax_is_taken_of_as_many_streams_or_none(tiny_bundle: Bundle, server: TritonServer) -> None:
    targets = in_process_targets({"lung_segmentation": tiny_bundle}, {"lung_segmentation": Choice(threads=1)}, batch=1)
    report = measure_waterfall(
        server.address,
        [2, 4],
        phantom_slices(),
        model="coronanet",
        batch=1,
        local=targets,
        bundles={"lung_segmentation": tiny_bundle},
        plan=LoadPlan(8, 10.0, rounds=1),
        rule=WarmUpRule(limit_s=0.1),
        timeout_s=30,
    )
    two, four = report.results
    assert two.tax is not None
    assert "2 streams" in two.tax.in_process
    assert four.tax is None


def test_a_trace_that_cannot_be_seen_from_here_is_one_line(
    server: TritonServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--concurrency", "1", "--requests", "4", "--served-only", "--trace-file", str(tmp_path / "elsewhere")]
    code, _, error = run(["waterfall", "--server", server.address, *options], capsys)
    assert code == 2
    assert "the server's trace has none of the requests" in error
    assert "--trace-file" in error


def test_perf_analyzer_asks_the_same_and_means_the_same_by_it(
    server: TritonServer, capsys: pytest.CaptureFixture[str]
) -> None:
    program = os.environ.get("PERF_ANALYZER") or shutil.which("perf_analyzer")
    if program is None:
        pytest.skip("no perf_analyzer: put .ci/cache, where .ci/run has it, on PATH or name it in PERF_ANALYZER")
    options = ["--concurrency", "1", "--requests", "50", "--perf-analyzer", program, "--json"]
    code, out, error = run(["serving", "--server", server.address, *options], capsys)
    assert code == 0, error
    value = valid(out, "bench-serving")
    assert [result["case"]["target"] for result in value["results"]] == ["served", "perf_analyzer"]
    ours, theirs = value["results"]
    assert min(ours["statistics"]["count"], theirs["statistics"]["count"]) >= 50
    ratios = {ratio["quantity"]: ratio["median"] for ratio in value["ratios"]}
    # A wrong unit or a time that is left out, and not a busy core.
    assert 0.1 < ratios["p50"] < 10
    assert 0.1 < ratios["throughput"] < 10


def test_what_starts_a_server_is_tested_in_one_process(request: pytest.FixtureRequest) -> None:
    starts = {path for path in {item.path for item in request.session.items} if "TritonServer(" in path.read_text()}
    marks = [item.get_closest_marker("xdist_group") for item in request.session.items if item.path in starts]
    assert {mark.args for mark in marks if mark is not None} == {("servers",)}
