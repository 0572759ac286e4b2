"""Every engine is really tried, and one that ends its process is a line and not the doctor's end."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
from coronanet.engines import trial_worker, trials
from coronanet.engines.bundle import Precision
from coronanet.engines.open import PRECISIONS
from coronanet.engines.trials import Trial, run_trials, try_backend


@pytest.fixture
def interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that is run in place of this Python; the test writes what it does."""
    program = tmp_path / "python"
    program.touch(mode=0o755)
    monkeypatch.setattr(trials.sys, "executable", str(program))
    return program


@pytest.fixture(scope="module")
def every() -> tuple[Trial, ...]:
    return run_trials()


def of(every: tuple[Trial, ...], backend: str, precision: str) -> Trial:
    (trial,) = [trial for trial in every if (trial.backend, trial.precision) == (backend, precision)]
    return trial


def test_every_precision_of_every_backend_is_tried_once(every: tuple[Trial, ...]) -> None:
    tried = [(trial.backend, trial.precision) for trial in every]
    assert len(tried) == len(set(tried))
    assert {(backend, precision) for backend, has in PRECISIONS.items() for precision in has} <= set(tried)
    assert {"tensorrt", "tensorrt_rtx"} <= {backend for backend, _ in tried}


@pytest.mark.parametrize("precision", PRECISIONS["onnxruntime"])
def test_onnx_runtime_works_here(every: tuple[Trial, ...], precision: Precision) -> None:
    assert of(every, "onnxruntime", precision) == Trial("onnxruntime", precision, "works", "", None)


def test_the_reference_works_here(every: tuple[Trial, ...]) -> None:
    assert of(every, "torch", "fp32").verdict == "works"


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="no TensorRT-RTX")
@pytest.mark.parametrize("precision", trials.PLAN_PRECISIONS)
def test_tensorrt_rtx_builds_a_plan_even_without_a_gpu(every: tuple[Trial, ...], precision: Precision) -> None:
    assert of(every, "tensorrt_rtx", precision).verdict in {"builds", "works"}


def test_a_backend_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials.importlib.util, "find_spec", lambda name: None if name == "openvino" else object())
    expected = Trial("openvino", "bf16", "missing", "openvino is not installed", "pip install 'coronanet[cpu]'")
    assert try_backend("openvino", "bf16") == expected


def test_a_library_that_kills_its_process_is_named_with_the_signal(interpreter: Path) -> None:
    interpreter.write_text("#!/bin/sh\nkill -ILL $$\n")
    trial = try_backend("onnxruntime", "fp32")
    assert (trial.verdict, trial.reason) == (
        "fails",
        "it ended the process with SIGILL: the package does not fit this machine",
    )


def test_a_process_that_ends_without_a_result_is_named_with_its_code(interpreter: Path) -> None:
    interpreter.write_text("#!/bin/sh\nexit 3\n")
    assert "exit code 3" in try_backend("onnxruntime", "fp32").reason


def test_an_engine_that_hangs_is_given_up(interpreter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(trials, "TIMEOUT_S", 0.2)
    assert try_backend("onnxruntime", "fp32").reason == "no answer within 0.2 s"


def test_the_users_home_stays_out_of_a_reason(interpreter: Path) -> None:
    home = os.path.expanduser("~")
    answer = json.dumps({"verdict": "fails", "reason": f"cannot load {home}/lib/libfoo.so"})
    interpreter.write_text(f'#!/bin/sh\nfor last in "$@"; do :; done\necho \'{answer}\' > "$last"\n')
    assert try_backend("onnxruntime", "fp32").reason == "cannot load ~/lib/libfoo.so"


def test_an_engine_that_computes_something_else_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_worker, "trial_pixels", lambda: np.zeros((1, 1, 16, 16), np.float32))
    trial_worker.main("onnxruntime", "fp32", tmp_path / "result.json")
    answer = json.loads((tmp_path / "result.json").read_text())
    assert answer["verdict"] == "fails"
    assert "something else than the convolution" in answer["reason"]


def test_what_a_broken_installation_raises_is_the_reason_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: object, **options: object) -> None:
        raise ImportError("libfoo.so.1: cannot open shared object file\nand more")

    monkeypatch.setattr(trial_worker, "open_onnx", broken)
    trial_worker.main("openvino", "fp32", tmp_path / "result.json")
    answer = json.loads((tmp_path / "result.json").read_text())
    assert answer == {"verdict": "fails", "reason": "libfoo.so.1: cannot open shared object file"}
