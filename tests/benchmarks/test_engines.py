"""`bench engines` beside the calls: starts of their own, the roof, peers, A against B, and the guard."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from coronanet import cli
from coronanet.benchmarks import against, bench_engines, ceilings, fresh, peers
from coronanet.benchmarks import prove as proof
from coronanet.benchmarks.against import measure_against
from coronanet.benchmarks.bench_engines import Extras, engine_call, hide_folder, measure_engines
from coronanet.benchmarks.ceilings import TOGETHER, torch_ceilings
from coronanet.benchmarks.engine_results import is_chosen, parity_of
from coronanet.benchmarks.fresh import measure_fresh
from coronanet.benchmarks.gpu import Staged
from coronanet.benchmarks.inputs import phantom_slices
from coronanet.benchmarks.memory import Growth, available_bytes
from coronanet.benchmarks.peers import Peer, PeerEngine, TorchCudaPeer, all_peers, peers_beside
from coronanet.benchmarks.prove import prove
from coronanet.benchmarks.report import Ceilings, read_engines
from coronanet.benchmarks.roofline import roofline
from coronanet.benchmarks.schemas import document_schema
from coronanet.benchmarks.timing import NS_PER_MS, Plan, WarmUpRule, interleave
from coronanet.benchmarks.trtexec import latencies_ns, run_trtexec
from coronanet.benchmarks.ways import Way, all_ways, open_way
from coronanet.benchmarks.yardstick import make_yardstick
from coronanet.engines.base import Engine, EngineBase, Tensors
from coronanet.engines.bundle import Bundle, Verdict
from coronanet.engines.open import Backend, open_engine
from coronanet.engines.predictor import Choice
from coronanet.engines.ranking import Ranked, Ranking
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TaskName
from numpy.typing import NDArray

from .fake_time import FakeTime, timed_engine

TASK: TaskName = "lung_segmentation"
QUICK = WarmUpRule(most=4, limit_s=2.0)
ORT = Way(Choice("onnxruntime", "fp32", 1))


def run(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "engines", *arguments])
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


@pytest.fixture
def one(tiny_bundle: Bundle) -> dict[TaskName, Bundle]:
    return {TASK: tiny_bundle}


@pytest.fixture
def tiny_cli(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle) -> None:
    """The verb finds the small network wherever it looks for bundles."""
    monkeypatch.setattr(cli, "provide_bundles", lambda _, tasks: {name: tiny_bundle for name in tasks if name == TASK})


@pytest.fixture(scope="module")
def image() -> NDArray[np.int16]:
    return phantom_slices()


def test_parity_is_what_parity_found_where_non_inferiority_has_not_run(tiny_bundle: Bundle) -> None:
    record = tiny_bundle.require("network").evidence
    assert record is not None
    half, whole, lost = Choice("torch_cuda", "fp16"), Choice("torch_cuda", "fp32"), Choice("onnxruntime_cuda", "fp32")

    def ranked(choice: Choice, parity: Verdict | None) -> Ranked:
        return Ranked(
            backend=choice.backend,
            precision=choice.precision,
            verdict="not_run",
            reason="no real slices",
            latency_ms=None,
            evidence=parity and record.model_copy(update={"verdict": parity}),
            non_inferiority=None,
        )

    ways = (ranked(half, "passed"), ranked(whole, "refused"), ranked(lost, None))
    ranking = Ranking(bundle_sha256=tiny_bundle.sha256, machine={}, real=False, ways=ways)
    found = {choice: parity_of(tiny_bundle, choice, ranking) for choice in (half, whole, lost)}
    assert {choice: each and each.verdict for choice, each in found.items()} == {
        half: "passed",
        whole: "refused",
        lost: "not_run",
    }
    assert not is_chosen(half, ranking)


def test_a_fresh_process_tells_how_a_network_starts_and_what_memory_it_takes(tiny_bundle: Bundle) -> None:
    one, eight = (measure_fresh(tiny_bundle, ORT, batch) for batch in (1, 8))
    for found in (one, eight):
        assert 0 < found.base_bytes < found.peak_bytes < 2**31
        assert min(found.import_ms, found.load_ms, found.first_ms) > 0
        assert found.gpu_bytes is None


def test_the_peak_of_a_process_is_the_most_that_it_held_and_not_what_it_still_holds() -> None:
    program = (
        "import numpy\n"
        "from coronanet.benchmarks.fresh_worker import peak_bytes\n"
        "before = peak_bytes()\n"
        "numpy.ones(256 * 2**20, numpy.uint8)\n"
        "print(peak_bytes() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 200 * 2**20


def test_what_fails_in_a_fresh_process_gives_its_reason(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="has no int8 network"):
        measure_fresh(tiny_bundle, Way(Choice("onnxruntime", "int8")), 1)
    with pytest.raises(UsageError, match="at most 8, got 9"):
        measure_fresh(tiny_bundle, ORT, 9)
    monkeypatch.setattr(fresh, "TIMEOUT_S", 0.01)
    with pytest.raises(UsageError, match="no answer from a fresh process"):
        measure_fresh(tiny_bundle, ORT, 1)


def test_a_process_that_the_kernel_kills_is_said_to_have_run_out_of_memory(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(killed))
    with pytest.raises(UsageError, match=r"killed, as the kernel does when memory runs out.*#out-of-memory"):
        measure_fresh(tiny_bundle, ORT, 1)


def test_memory_of_a_larger_batch_is_on_the_line_through_the_last_two() -> None:
    growth = Growth()
    growth.add(1, 100)
    assert growth.predict(2) is None
    growth.add(2, 140)
    assert growth.predict(4) == 220
    assert (available_bytes() or 2**30) > 2**20


def test_batches_double_as_far_as_graph_and_memory_go(
    one: dict[TaskName, Bundle], image: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(2, 5.0)
    report = measure_engines(one, [ORT], None, image, plan=plan, rule=QUICK)
    assert [result.case.batch for result in report.results] == [1, 2, 4, 8]
    monkeypatch.setattr("coronanet.benchmarks.bench_engines.available_bytes", lambda: 2**20)
    report = measure_engines(one, [ORT], None, image, plan=plan, rule=QUICK, extras=Extras(fresh=True))
    assert [result.case.batch for result in report.results] == [1, 2]
    assert all(result.fresh for result in report.results)
    assert [item.what for item in report.skipped] == [f"{TASK} {ORT} batch {batch}" for batch in (4, 8)]
    assert "GiB are free" in report.skipped[0].reason


def test_every_result_has_its_share_of_the_roof_and_fits_the_schema(
    one: dict[TaskName, Bundle], image: NDArray[np.int16]
) -> None:
    ways = [ORT, Way(Choice("openvino", "fp32", 1))]
    report = measure_engines(one, ways, [1, 4], image, plan=Plan(8, 5.0), rule=QUICK, extras=Extras(roofline=True))
    (found,) = report.ceilings
    assert found.flops_per_s.keys() >= {"fp32", "int8"}
    assert min(*found.flops_per_s.values(), found.bytes_per_s) > 0
    for result in report.results:
        roof = result.roofline
        assert roof is not None
        assert roof.bound_ms > 0
        assert roof.share == pytest.approx(roof.bound_ms / result.statistics.p50_ms)
        assert sum(layer.flops for layer in roof.layers) <= roof.flops
    first, second = (next(r for r in report.results if r.case.batch == batch).roofline for batch in (1, 4))
    assert first is not None
    assert second is not None
    assert second.flops == 4 * first.flops
    assert second.bound_ms > first.bound_ms
    jsonschema.validate(json.loads(report.to_json()), document_schema("bench-engines"))


def test_peers_are_measured_in_the_same_rounds_and_those_that_cannot_say_why(
    one: dict[TaskName, Bundle], image: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    ways = [Way(Choice("torch", "fp32")), ORT]
    report = measure_engines(one, ways, [1], image, plan=Plan(6, 200.0), rule=QUICK, extras=Extras(peers=all_peers()))
    found = {result.case.peer: result for result in report.peers}
    assert found.keys() >= {"torch eager", "torch channels-last", "torch bf16", "onnxruntime defaults"}
    assert found["torch eager"].max_difference == pytest.approx(0, abs=1e-4)
    assert 0 < (found["torch bf16"].max_difference or 0) < 1
    assert {len(result.rounds_ns) for result in report.peers} == {len(report.results[0].rounds_ns)} == {2}
    reasons = {item.what: item.reason for item in report.skipped}
    assert "needs a C++ compiler" in reasons[f"{TASK} torch.compile"]
    if "torch cuda fp16" not in found:
        assert "finds no CUDA GPU" in reasons[f"{TASK} torch cuda fp16"]
        assert "no CUDA provider" in reasons[f"{TASK} onnxruntime cuda"]
    jsonschema.validate(json.loads(report.to_json()), document_schema("bench-engines"))


def test_a_peer_that_dies_in_its_first_call_is_skipped_and_the_rest_measured(
    one: dict[TaskName, Bundle], image: NDArray[np.int16]
) -> None:
    def dies(_: Tensors) -> dict[str, NDArray[Any]]:
        raise RuntimeError("planted\nand a page of traceback")

    broken = Peer("broken", "", lambda bundle: PeerEngine(bundle.require("network"), dies))
    missing = Peer("missing", "", lambda _: peers._require("no_such_package"))  # pyright: ignore
    report = measure_engines(one, [ORT], [1], image, plan=Plan(2, 5.0), rule=QUICK, extras=Extras(peers=(broken,)))
    assert [(item.what, item.reason) for item in report.skipped] == [(f"{TASK} broken batch 1", "planted")]
    assert len(report.results) == 1
    assert missing.name == "missing"


def test_a_peer_that_dies_after_its_first_call_takes_nothing_with_it(
    one: dict[TaskName, Bundle], image: NDArray[np.int16]
) -> None:
    def tired(bundle: Bundle) -> Engine:
        engine, calls = open_way(bundle, ORT), count()

        def run(feeds: Tensors) -> dict[str, NDArray[Any]]:
            if next(calls):
                raise RuntimeError("planted")
            return engine.infer(feeds)

        return PeerEngine(bundle.require("network"), run)

    peer = Peer("tired", "", tired)
    report = measure_engines(one, [ORT], [1], image, plan=Plan(2, 5.0), rule=QUICK, extras=Extras(peers=(peer,)))
    assert [(item.what, item.reason) for item in report.skipped] == [(f"{TASK} tired batch 1", "planted")]
    assert (len(report.results), report.peers) == (1, ())


def test_what_is_asked_of_a_gpu_after_the_calls_cannot_lose_them(
    one: dict[TaskName, Bundle], image: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every engine counts as one of a GPU, and can neither be taken apart nor found by NVML.
    monkeypatch.setattr(bench_engines, "CudaEngine", EngineBase)
    report = measure_engines(one, [ORT], [1], image, plan=Plan(2, 5.0), rule=QUICK)
    (result,) = report.results
    assert (result.stages, result.gpu) == (None, None)
    assert [item.what for item in report.skipped] == [f"{result.case} stages", f"{result.case} power and clocks"]


def test_ceilings_that_cannot_be_measured_cost_the_roof_alone(
    one: dict[TaskName, Bundle], image: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(_: int | None) -> Ceilings:
        raise RuntimeError("planted\nand a page of traceback")

    monkeypatch.setattr(ceilings, "measure_cpu_ceilings", dies)
    report = measure_engines(one, [ORT], [1], image, plan=Plan(2, 5.0), rule=QUICK, extras=Extras(roofline=True))
    assert [(item.what, item.reason) for item in report.skipped] == [("roofline", "planted")]
    assert [result.roofline for result in report.results] == [None]


@pytest.mark.usefixtures("tiny_cli")
def test_a_run_that_is_broken_off_leaves_the_groups_before_in_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, groups = tmp_path / "engines.json", count()

    def breaks(calls: Any, plan: Plan, **options: Any) -> Any:
        if next(groups):
            raise KeyboardInterrupt
        return interleave(calls, plan, **options)

    monkeypatch.setattr(bench_engines, "interleave", breaks)
    options = ["--backend", "onnxruntime", "--repeats", "5", "--no-fresh", "--no-roofline", "--batch", "1,2"]
    code, _, _ = run([*options, "--out", str(file)], capsys)
    assert code == 130
    report = read_engines(file)
    assert [result.case.batch for result in report.results] == [1]
    assert "broken off" in report.skipped[-1].reason
    # What a finished run left stays.
    file.write_text("finished")
    groups = count()
    code, _, _ = run([*options, "--out", str(file)], capsys)
    assert (code, file.read_text()) == (130, "finished")
    assert len(read_engines(tmp_path / "engines.json.part").results) == 1


@pytest.mark.parametrize("answers", [0, 20])
def test_a_way_that_dies_in_a_call_is_skipped_and_what_was_measured_is_kept(
    one: dict[TaskName, Bundle], image: NDArray[np.int16], answers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = Way(replace(ORT.choice, threads=2))

    def opener(bundle: Bundle, way: Way) -> Engine:
        engine = open_way(bundle, way)
        infer, calls = engine.infer, count()

        def dies(feeds: Tensors) -> dict[str, NDArray[Any]]:
            # Out of memory while it is measured only with the larger batch.
            if len(next(iter(feeds.values()))) == 2 and next(calls) >= answers:
                raise RuntimeError("planted\nand a page of traceback")
            return infer(feeds)

        if way == dying:
            monkeypatch.setattr(engine, "infer", dies)
        return engine

    report = measure_engines(one, [ORT, dying], [1, 2], image, plan=Plan(200, 5.0), rule=QUICK, opener=opener)
    assert [(item.what, item.reason) for item in report.skipped] == [(f"{TASK} {dying} batch 2", "planted")]
    measured = [(result.case.threads, result.case.batch) for result in report.results]
    assert measured == [(1, 1), (2, 1), (1, 2)]


# Of torch's own modules, which it imports when it first compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_compile_runs_where_a_compiler_is(
    small_bundles: dict[TaskName, Bundle], image: NDArray[np.int16]
) -> None:
    if not any(shutil.which(name) for name in ("g++", "clang++")):
        pytest.skip("no C++ compiler is here")
    compiled = tuple(peer for peer in all_peers() if peer.name == "torch.compile")
    one: dict[TaskName, Bundle] = {"binary_segmentation": small_bundles["binary_segmentation"]}
    report = measure_engines(one, [ORT], [1], image, plan=Plan(2, 5.0), rule=QUICK, extras=Extras(peers=compiled))
    assert [result.case.peer for result in report.peers] == ["torch.compile"]
    assert (report.peers[0].max_difference or 1) < 1e-3


@pytest.mark.parametrize(("ms", "verdict"), [(15.0, "noise"), (16.5, "slower"), (13.5, "faster")])
@pytest.mark.parametrize("seed", range(3))
def test_a_planted_tenth_is_found_in_turns_and_the_same_thing_is_not_called_different(
    one: dict[TaskName, Bundle],
    image: NDArray[np.int16],
    ms: float,
    verdict: str,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, rng, openings = FakeTime(), np.random.default_rng(seed), count()
    clock.for_calls(monkeypatch, against)

    def opener(bundle: Bundle, _: Way) -> Engine:
        # A and B are opened by turns, A first.
        return timed_engine(bundle, clock, ms if next(openings) % 2 else 15.0, rng)

    report = measure_against(one, one, [ORT], [1], image, plan=Plan(60, 60.0), rule=QUICK, opener=opener)
    (found,) = report.comparisons
    assert found.verdict == verdict
    assert found.ratio == pytest.approx(ms / 15, rel=0.03)
    assert found.relative_to is None
    assert report.against == {TASK: one[TASK].sha256}
    jsonschema.validate(json.loads(report.to_json()), document_schema("bench-engines"))


def test_the_proof_of_the_verdicts_finds_every_planted_tenth_and_none_where_there_is_none(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who waits by this clock looks at it, and so moves it.
    clock, rng = FakeTime(tick_ns=1000), np.random.default_rng(0)
    clock.for_calls(monkeypatch, against)
    monkeypatch.setattr(proof, "time", SimpleNamespace(perf_counter_ns=clock))
    monkeypatch.setattr(proof, "open_way", lambda bundle, _: timed_engine(bundle, clock, 5.0, rng))
    report = prove(tiny_bundle, 5, Plan(60, 60.0))
    assert report.verdicts == {"same": {"noise": 5}, "planted": {"slower": 5}}
    assert [one.ratio for one in report.planted] == pytest.approx([1.1] * 5, rel=0.03)


def test_the_proof_of_the_verdicts_leaves_what_it_measured_and_how(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prove.json"
    options = ["--runs", "1", "--repeats", "20", "--out", str(file)]
    monkeypatch.setattr(sys, "argv", ["prove", str(tiny_bundle.path), *options])
    proof.main()
    value = json.loads(file.read_text())
    jsonschema.validate(value, document_schema("bench-prove"))
    assert json.loads(capsys.readouterr().out) == value["verdicts"]
    assert [len(value[name]) for name in ("same", "planted")] == [1, 1]
    assert value["protocol"]["method"]["verb"] == "bench prove"
    assert value["protocol"]["method"]["plan"]["repeats"] == 20
    assert value["protocol"]["software"]["bundles"] == {TASK: tiny_bundle.sha256}


@pytest.mark.usefixtures("tiny_cli")
def test_against_takes_bundles_and_says_what_to_do_with_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--backend", "onnxruntime", "--precision", "fp32", "--repeats", "10"]
    code, out, _ = run([*quick, "--against", str(tmp_path), "--json"], capsys)
    assert code == 0
    assert len(json.loads(out)["comparisons"]) == 1
    (tmp_path / "a.json").write_text("{}")
    code, _, error = run([*quick, "--against", str(tmp_path / "a.json")], capsys)
    assert code == 2
    assert "--baseline" in error
    code, _, error = run([*quick, "--against", str(tmp_path), "--batch", "up"], capsys)
    assert code == 2
    assert "leave --baseline, --peers, --peer and --batch up out" in error


def test_a_peer_that_nobody_knows_is_refused_before_bundles_are_exported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("exported")

    monkeypatch.setattr(cli, "provide_bundles", never)
    code, _, error = run(["--peer", "torch bf61"], capsys)
    assert code == 2
    assert "no peer 'torch bf61'" in error


@pytest.mark.usefixtures("tiny_cli")
def test_a_baseline_fails_on_a_slowdown_alone_and_on_ratios(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, quick = tmp_path / "base.json", ["--backend", "onnxruntime", "--repeats", "40", "--no-fresh", "--no-roofline"]
    code, out, _ = run([*quick, "--out", str(file), "--json"], capsys)
    assert code == 0
    code, out, _ = run([*quick, "--baseline", str(file), "--json"], capsys)
    value = json.loads(out)
    assert (code == 0) == all(one["verdict"] != "slower" for one in value["comparisons"])
    assert [one["relative_to"] for one in value["comparisons"]] == ["yardstick"]

    # From here every run finds these times: what the machine does meanwhile is not what is tested.
    report = read_engines(file)
    steady = ((8_000_000,) * 5,) * 8
    report = report.model_copy(
        update={
            "results": tuple(one.model_copy(update={"rounds_ns": steady}) for one in report.results),
            "yardsticks": tuple(one.model_copy(update={"rounds_ns": steady}) for one in report.yardsticks),
        }
    )
    monkeypatch.setattr(bench_engines, "measure_engines", lambda *_, **__: report)

    def hold(case: float, yardstick: float, rounds: int = 8) -> tuple[int, dict[str, Any], str]:
        """Against an earlier run that took so many times as long, on a machine whose yardstick did."""
        earlier = json.loads(report.to_json())
        for part, times in (("results", case), ("yardsticks", yardstick)):
            earlier[part][0]["rounds_ns"] = [[round(ns * times) for ns in one] for one in steady[:rounds]]
        file.write_text(json.dumps(earlier))
        code, out, error = run([*quick, "--baseline", str(file), "--json"], capsys)
        return code, json.loads(out), error

    # The same; the same on a machine that became twice as slow; faster.
    for case, yardstick, ratio in ((1.0, 1.0, 1.0), (0.5, 0.5, 1.0), (1.5, 1.0, 2 / 3)):
        code, value, _ = hold(case, yardstick)
        assert code == 0
        (found,) = value["comparisons"]
        assert found["ratio"] == pytest.approx(ratio, rel=0.01)
    # Half of what the yardstick moved by is in the floor, on a logarithmic scale; a factor of four is a great deal.
    (found,) = hold(1 / 8, 1 / 4)[1]["comparisons"]
    assert found["noise_floor"] == pytest.approx(1, rel=0.01)

    # A tenth slower; as fast as before on a machine that became faster by a quarter, which is slower too.
    for case, yardstick in ((1 / 1.1, 1.0), (1.0, 1.25)):
        code, value, error = hold(case, yardstick)
        assert (code, value["exit_code"]) == (1, 1)
        assert f"slower than {file}: {TASK} onnxruntime fp32 batch 1" in error
    code, _, error = hold(1.0, 1.0, rounds=2)
    assert code == 1
    assert f"could not judge {TASK} onnxruntime fp32 batch 1: 2 of at least 4 rounds" in error


@pytest.mark.usefixtures("tiny_cli")
def test_a_baseline_fails_where_a_way_that_was_asked_for_has_no_result_any_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, quick = tmp_path / "base.json", ["--repeats", "20", "--no-fresh", "--no-roofline", "--precision", "fp32"]
    both, peer = ["--backend", "onnxruntime,openvino"], ["--peer", "torch eager"]
    assert run([*quick, *both, *peer, "--out", str(file)], capsys)[0] == 0

    def dies(bundle: Bundle, *, backend: Backend, **options: Any) -> Engine:
        if backend == "openvino":
            raise RuntimeError("planted\nand a page of traceback")
        return open_engine(bundle, backend=backend, **options)

    monkeypatch.setattr("coronanet.benchmarks.ways.open_engine", dies)
    code, out, error = run([*quick, *both, "--baseline", str(file), "--json"], capsys)
    assert (code, json.loads(out)["exit_code"]) == (1, 1)
    assert f"in {file} and not measured now: {TASK} openvino fp32 batch 1 (planted)" in error
    assert "torch eager" not in error, "it was not asked for"
    monkeypatch.setattr(peers, "_torch", lambda _: peers._require("no_such_package"))  # pyright: ignore
    code, _, error = run([*quick, *both, *peer, "--baseline", str(file)], capsys)
    assert code == 1
    assert f"{TASK} openvino fp32 batch 1 (planted), {TASK} torch eager batch 1 (" in error
    code, _, error = run([*quick, "--backend", "openvino", "--baseline", str(file)], capsys)
    assert code == 1
    assert f"of the baseline nothing could be measured now: nothing to measure: {TASK} openvino fp32: planted" in error
    (tmp_path / "file").touch()
    elsewhere = ["--out", str(tmp_path / "file" / "new.json")]
    code, _, error = run([*quick, "--backend", "onnxruntime", "--baseline", str(file), *elsewhere], capsys)
    assert code == 2, "no verdict, but wrong use"
    assert "cannot write" in error
    # Only what is asked for must be there, and something must be.
    error = run([*quick, "--backend", "onnxruntime", "--baseline", str(file)], capsys)[2]
    assert "not measured now" not in error
    code, _, error = run([*quick, "--backend", "torch", "--baseline", str(file)], capsys)
    assert code == 2
    assert "the baseline has nothing of what is asked for here" in error


@pytest.mark.usefixtures("tiny_cli")
def test_a_baseline_of_another_protocol_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, quick = tmp_path / "base.json", ["--backend", "onnxruntime", "--no-fresh", "--no-roofline"]
    code, _, _ = run([*quick, "--repeats", "5", "--out", str(file), "--json"], capsys)
    assert code == 0

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("coronanet.benchmarks.bench_engines.measure_engines", never)
    code, _, error = run([*quick, "--repeats", "6", "--baseline", str(file)], capsys)
    assert code == 2
    assert "method.plan.repeats is 5 in A and 6 in B" in error


@pytest.mark.usefixtures("tiny_cli")
def test_the_verb_measures_starts_and_roof_and_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "engines.json"
    code, out, _ = run(["--backend", "onnxruntime", "--repeats", "5", "--out", str(file)], capsys)
    assert code == 0
    for part in ("Start, memory and roof", "load ms", "GFLOP", "share"):
        assert part in out
    value = json.loads(file.read_text())
    jsonschema.validate(value, document_schema("bench-engines"))
    assert value["results"][0]["fresh"]["peak_bytes"] > 0
    assert "fresh process" in value["protocol"]["method"]["fresh"]
    assert max(map(len, out.splitlines())) <= 160


def test_the_harness_adds_less_than_a_hundredth_to_five_milliseconds() -> None:
    """In time of this thread's own, so that other work, which takes the core at any moment, does not count."""
    clock = time.thread_time_ns

    class Spin(EngineBase):
        def __init__(self) -> None:
            super().__init__((), (), 1)
            self.inside: list[int] = []

        def infer(self, feeds: Tensors) -> dict[str, NDArray[Any]]:
            start = clock()
            while clock() - start < 5 * NS_PER_MS:
                pass
            self.inside.append(clock() - start)
            return {}

    engine, plan = Spin(), Plan(40, 10.0)
    start = clock()
    measured = interleave({"spin": engine_call(engine, {})}, plan, clock=clock).popitem()[1].samples
    whole = clock() - start
    turn = plan.settle + plan.block
    counted = [inside for place, inside in enumerate(engine.inside) if place % turn >= plan.settle]
    added = [seen - inside for seen, inside in zip(measured.durations_ns, counted, strict=True)]
    assert statistics.median(added) < 0.01 * 5 * NS_PER_MS
    # And between the calls: nothing that would eat the machine's time.
    assert whole < 1.05 * sum(engine.inside)


def test_the_yardstick_is_the_same_work_every_time() -> None:
    work = make_yardstick()
    taken = interleave({"yardstick": work}, Plan(10, 5.0))["yardstick"].samples
    assert taken.min_ms > 0.1


def test_on_a_gpu_every_way_is_there_with_cuda_graphs_and_without() -> None:
    assert all_ways(["openvino", "torch"], ["bf16", "fp16"], None) == [Way(Choice("openvino", "bf16"))]
    ways = all_ways(["tensorrt"], ["fp16"], None)
    assert [way.graphs for way in ways] == [True, False]
    assert [str(way) for way in ways] == ["tensorrt fp16", "tensorrt fp16 without CUDA graphs"]
    assert [Way.from_dict(way.to_dict()) for way in ways] == ways


@pytest.fixture
def trtexec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a tool of that name on the PATH, which runs a line of shell with its arguments in "$@"."""

    def make(line: str) -> Path:
        tool = tmp_path / "trtexec"
        tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\n{line}\n')
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        return tmp_path / "arguments"

    return make


def test_tensorrts_own_tool_is_asked_for_our_file_and_its_times_are_read(
    tiny_bundle: Bundle, trtexec: Callable[[str], Path]
) -> None:
    written = '[{"latencyMs": 1.5, "computeMs": 1.0}, {"latencyMs": 2.5}]'
    arguments = trtexec(
        f"""for a in "$@"; do case $a in --exportTimes=*) echo '{written}' > "${{a#*=}}";; esac; done"""
    )
    assert run_trtexec(tiny_bundle, 4) == (1_500_000, 2_500_000)
    given = arguments.read_text().splitlines()
    assert f"--onnx={tiny_bundle.path}/network.fp32.onnx" in given
    assert "--shapes=pixels:4x1x64x64" in given


def test_what_tensorrts_own_tool_dies_of_is_its_last_line(
    tiny_bundle: Bundle, trtexec: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trtexec("echo no GPU >&2; exit 3")
    with pytest.raises(UsageError, match="trtexec ended with code 3: no GPU"):
        run_trtexec(tiny_bundle, 1)
    with pytest.raises(UsageError, match="no times that can be read"):
        latencies_ns(b"{}x")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UsageError, match="is not on the PATH"):
        run_trtexec(tiny_bundle, 1)


def test_peers_are_those_of_the_devices_that_are_measured_or_those_that_are_named() -> None:
    gpu = Way(Choice("torch_cuda", "fp16"), graphs=True)
    beside = {device: {peer.name for peer in peers_beside(ways)} for device, ways in (("cpu", [ORT]), ("gpu", [gpu]))}
    assert {"torch eager", "openvino defaults"} <= beside["cpu"]
    assert {"torch cuda", "onnxruntime cuda fp16"} <= beside["gpu"]
    assert not beside["cpu"] & beside["gpu"]
    assert {peer.name for peer in peers_beside([ORT, gpu])} == beside["cpu"] | beside["gpu"]
    assert [peer.name for peer in peers_beside([ORT], ["torch bf16", "torch cuda"])] == ["torch bf16", "torch cuda"]
    with pytest.raises(UsageError, match=r"no peer 'trtexec': expected one of torch eager, "):
        peers_beside([ORT], ["trtexec"])


def test_a_peer_on_a_gpu_is_taken_apart_with_a_wait_after_every_stage(tiny_bundle: Bundle) -> None:
    log: list[str] = []

    def stage(name: str) -> Callable[[Any], Any]:
        def work(value: Any) -> Any:
            log.append(name)
            return torch.as_tensor(value)

        return work

    peer = TorchCudaPeer(tiny_bundle.require("network"), stage("up"), stage("net"), lambda: log.append("wait"))
    assert isinstance(peer, Staged)
    feeds = {"pixels": np.ones((1, 1, 64, 64), np.float32)}
    times = peer.time_stages(feeds)
    assert log == ["wait", "up", "wait", "net", "wait", "wait"]
    assert min(times.upload_ns, times.compute_ns, times.download_ns) > 0
    np.testing.assert_array_equal(peer.infer(feeds)["logits"], feeds["pixels"])


def test_the_roof_is_that_of_the_arithmetic_and_not_of_the_file(tiny_bundle: Bundle) -> None:
    ceilings = Ceilings(
        device="gpu", flops_per_s={"fp32": 1e9, "fp16": 1e10}, reached_by={}, bytes_per_s=1e12, memory=()
    )
    single, half = (
        roofline(tiny_bundle, Way(Choice("torch_cuda", precision)), 1, 1.0, ceilings) for precision in ("fp32", "fp16")
    )
    assert half.flops == single.flops
    assert half.bytes == single.bytes // 2
    assert half.bound_ms == pytest.approx(single.bound_ms / 10, rel=0.1)


def test_ceilings_by_torch_wait_once_for_many_calls_and_leave_out_what_a_device_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, waits = count(), count()

    def cannot(*_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("planted: no int8 here")

    def product(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        next(calls)
        assert one.std() > 0
        return one @ other

    monkeypatch.setattr(torch, "_int_mm", cannot)
    monkeypatch.setattr(torch, "matmul", product)
    found = torch_ceilings("cpu", lambda: next(waits), side=64, working_sets=(2**16, 2**20))
    assert found.flops_per_s.keys() == {"fp32", "fp16", "bf16"}
    assert [level.working_set_bytes for level in found.memory] == [2**16, 2**20]
    assert min(*found.flops_per_s.values(), found.bytes_per_s) > 0
    assert next(calls) > 3 * TOGETHER
    assert next(waits) > 3


def test_a_reason_names_no_folder_of_this_machine(tiny_bundle: Bundle) -> None:
    folder = tiny_bundle.path.parent
    told = hide_folder(tiny_bundle, UsageError(f"{tiny_bundle.path} has no plan: export --out {folder}"))
    assert told == f"{tiny_bundle.path.name} has no plan: export --out {folder.name}"


def test_only_the_bundles_of_the_tasks_that_are_measured_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Sequence[str]] = []

    def provide(_: Path | None, tasks: Sequence[TaskName]) -> dict[TaskName, Bundle]:
        asked.append(tasks)
        return dict.fromkeys(tasks, tiny_bundle)

    monkeypatch.setattr(cli, "provide_bundles", provide)
    quick = ["--backend", "onnxruntime", "--repeats", "3", "--no-fresh", "--no-roofline"]
    assert run(["--task", TASK, *quick], capsys)[0] == 0
    assert asked == [[TASK]]
