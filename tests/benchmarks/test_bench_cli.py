import json
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coronanet.benchmarks import bench_engines
from coronanet.benchmarks.bench_engines import measure_engines
from coronanet.benchmarks.bench_serving import in_process_targets, measure_serving, served_targets
from coronanet.benchmarks.inputs import batch_of, feeds_for, phantom_slices
from coronanet.benchmarks.load import LoadPlan
from coronanet.benchmarks.timing import Plan, WarmUpRule
from coronanet.benchmarks.ways import Way
from coronanet.cli import main
from coronanet.engines import triton_engine
from coronanet.engines.base import Engine, EngineBase, Tensors, TensorSpec
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import IMAGE, Choice, LocalEnsemble, ensemble_output
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TaskName
from numpy.typing import NDArray

from .fake_time import FakeTime, timed_engine

TASK: TaskName = "lung_segmentation"
QUICK = WarmUpRule(most=6, limit_s=2.0)


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def one(tiny_bundle: Bundle) -> dict[TaskName, Bundle]:
    return {TASK: tiny_bundle}


@pytest.fixture(scope="module")
def image() -> NDArray[np.int16]:
    return phantom_slices()


def test_a_planted_slow_engine_is_seen_slower_by_what_was_planted(
    one: dict[TaskName, Bundle], image: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    same, slowed = Way(Choice("onnxruntime", "fp32")), Way(Choice("onnxruntime", "fp32", 1))
    clock, rng = FakeTime(), np.random.default_rng(0)
    clock.for_calls(monkeypatch, bench_engines)

    def opener(bundle: Bundle, way: Way) -> Engine:
        return timed_engine(bundle, clock, 15 if way == slowed else 5, rng)

    report = measure_engines(one, [same, slowed], [1], image, plan=Plan(40, 60.0), rule=QUICK, opener=opener)
    fast, slow = (result.statistics.p50_ms for result in report.results)
    assert slow == pytest.approx(3 * fast, rel=0.03)


def test_engines_that_cannot_run_are_listed_with_the_reason(
    one: dict[TaskName, Bundle], image: NDArray[np.int16]
) -> None:
    largest = one[TASK].require("network").batch
    assert largest is not None
    report = measure_engines(
        one,
        [Way(Choice("onnxruntime", "fp32", 1)), Way(Choice("openvino", "fp16", 1)), Way(Choice("torch", "fp32", 1))],
        [1, largest.max + 1],
        image,
        plan=Plan(2, 5.0),
        rule=QUICK,
    )
    assert [(result.case.backend, result.case.batch) for result in report.results] == [("onnxruntime", 1)]
    reasons = {item.what: item.reason for item in report.skipped}
    assert "openvino has no fp16" in reasons[f"{TASK} openvino fp16"]
    assert "leave --threads out" in reasons[f"{TASK} torch fp32"]
    assert f"at most {largest.max}" in reasons[f"{TASK} onnxruntime fp32 batch {largest.max + 1}"]
    assert str(one[TASK].path) not in report.to_json()


def test_nothing_to_measure_is_an_error_with_the_reasons(one: dict[TaskName, Bundle], image: NDArray[np.int16]) -> None:
    with pytest.raises(UsageError, match="openvino has no fp16"):
        measure_engines(one, [Way(Choice("openvino", "fp16"))], [1], image, plan=Plan(1, 1.0), rule=QUICK)


def test_served_and_in_process_are_compared_in_one_run(one: dict[TaskName, Bundle], image: NDArray[np.int16]) -> None:
    """The served chain is stood in for by one in this process, so ratio and agreement are known."""
    choices: dict[TaskName, Choice] = {TASK: Choice("onnxruntime", "fp32", 1)}
    targets = served_targets("nowhere:1", lambda: LocalEnsemble(one, choices), "coronanet", [1], batch=2)
    targets += in_process_targets(one, choices, batch=2)
    steps: list[str] = []
    report = measure_serving(
        targets, image, batch=2, bundles=one, plan=LoadPlan(10, 30.0), rule=QUICK, advance=steps.append
    )
    assert [result.case.target for result in report.results] == ["served", "in_process", "in_process"]
    assert all(result.statistics and not result.errors for result in report.results)
    assert all(len(result.bursts) == 5 for result in report.results)
    assert [(item.output, item.equal_share) for item in report.agreement] == [("lung_mask", 1.0)]
    (ratio,) = report.ratios
    assert 0 < ratio.lowest <= ratio.median <= ratio.highest
    assert ratio.against.startswith("in process")
    assert "nowhere" not in report.to_json()
    assert len(steps) == len(targets) + 5


def test_a_batch_larger_than_the_model_takes_is_refused_before_any_load(
    one: dict[TaskName, Bundle], image: NDArray[np.int16]
) -> None:
    targets = in_process_targets(one, {TASK: Choice()}, batch=99)
    with pytest.raises(UsageError, match="pass a smaller --batch"):
        measure_serving(targets, image, batch=99, bundles=one, plan=LoadPlan(1, 1.0), rule=QUICK)


def test_bench_engines_prints_one_object_and_writes_the_same(
    bundles: dict[TaskName, Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = str(bundles[TASK].path.parent), tmp_path / "engines.json"
    arguments = ["--bundles", folder, "--task", TASK, "--backend", "onnxruntime", "--repeats", "3", "--threads", "1"]
    arguments += ["--no-fresh", "--no-roofline"]
    code, out, _ = run(["bench", "engines", *arguments, "--out", str(file), "--json"], capsys)
    assert code == 0
    value = json.loads(out)
    assert value == json.loads(file.read_text())
    networks = {record.precision for record in bundles[TASK].manifest.files if record.graph == "network"}
    assert {result["case"]["precision"] for result in value["results"]} == networks >= {"fp32", "fp16"}
    assert all([len(one) for one in result["rounds_ns"]] == [3] for result in value["results"])
    assert value["protocol"]["software"]["bundles"] == {TASK: bundles[TASK].sha256}
    assert value["protocol"]["method"]["input"]["shape"] == [512, 512]
    assert folder not in out

    code, out, _ = run(["bench", "table", str(file)], capsys)
    assert code == 0
    assert "onnxruntime" in out
    assert "not a medical device" in out


def test_bench_serving_without_a_server_says_how_to_start_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(["bench", "serving"], capsys)
    assert (code, out) == (2, "")
    assert "coronanet serve" in error
    assert "--server 127.0.0.1:8001" in error
    assert len(error.strip().splitlines()) == 1


def test_bench_serving_with_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tritonclient")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code, out, error = run(["bench", "serving", "--server", address, "--timeout", "5", "--json"], capsys)
    assert code == 2
    assert json.loads(out)["exit_code"] == 2
    assert len(error.strip().splitlines()) == 1
    assert address in error


@pytest.mark.parametrize("as_json", [True, False])
def test_a_failed_request_is_exit_1_one_line_and_still_one_object(
    as_json: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tritonclient")
    answered: list[int] = []

    class Failing(EngineBase):
        """A server that answers once."""

        def __init__(self, *_: object, **__: object) -> None:
            super().__init__((IMAGE,), (ensemble_output(TASK),), 8)

        def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
            answered.append(1)
            if len(answered) > 1:
                raise UsageError("gone")
            return {"lung_mask": np.zeros(feeds["image"].shape, np.uint8)}

    monkeypatch.setattr(triton_engine, "TritonEngine", Failing)
    file = tmp_path / "serving.json"
    arguments = ["--server", "nowhere:1", "--concurrency", "1", "--requests", "3", "--max-seconds", "2"]
    options = ["--json"] if as_json else []
    code, out, error = run(["bench", "serving", *arguments, "--out", str(file), *options], capsys)
    assert code == 1
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "requests failed: the log of `coronanet serve` says why" in line
    if as_json:
        value = json.loads(out)
        assert value.pop("exit_code") == 1
        assert value.pop("error") == line.removeprefix("error: ")
        assert value == json.loads(file.read_text())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["engines", "--task", "lungs"], "--task: expected one or more of classification"),
        (["engines", "--precision", ""], "--precision: expected one or more of fp32"),
        (["engines", "--batch", "1,zero"], "--batch: expected whole numbers from 1"),
        (["serving", "--server", "localhost:1", "--concurrency", "0"], "--concurrency: expected whole numbers"),
        (["serving", "--server", "localhost:1", "--in-process", "--model", "classification"], "--model coronanet"),
        (["serving", "--server", "localhost:1", "--tls", "--perf-analyzer", "auto"], "without TLS and keys"),
        (["waterfall", "--tls"], "are for --server"),
        (["triage", "--tls"], "are for --server"),
        (["serving", "--server", "localhost:1", "--rate", "5,0"], "--rate: expected requests a second above 0"),
        (["serving", "--server", "localhost:1", "--model", ","], "--model: expected coronanet, steps of it or all"),
        (["serving", "--server", "localhost:1", "--perf-analyzer", "/nowhere"], "expected NVIDIA's program on PATH"),
        (["waterfall"], "bench waterfall measures a server that runs: start one with `coronanet serve`"),
        (["table", "missing.json"], "bench engines --out"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(["bench", *arguments], capsys)
    assert (code, out) == (2, "")
    assert said in error
    assert len(error.strip().splitlines()) == 1


def test_the_phantom_is_the_same_every_time_and_fills_any_batch(image: NDArray[np.int16]) -> None:
    assert image.shape[1:] == (512, 512)
    assert np.array_equal(image, phantom_slices())
    batch = batch_of(image, len(image) + 1)
    assert np.array_equal(batch[0], batch[-1])


def test_a_step_that_takes_no_image_gets_noise_of_its_shape(image: NDArray[np.int16]) -> None:
    class Step(EngineBase):
        def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
            return dict(feeds)

    inputs = (TensorSpec("logits", "float32", (-1, 4, 32, 32)), TensorSpec("image", "int16", (-1, -1, -1)))
    feeds = feeds_for(Step(inputs, (), 8), image[:2])
    assert feeds["logits"].shape == (2, 4, 32, 32)
    assert feeds["logits"].dtype == np.float32
    assert np.array_equal(feeds["image"], image[:2])
