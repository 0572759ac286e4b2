"""A file that a runtime refuses is one line with the reason, and the page that is about it."""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from coronanet.engines.base import DYNAMIC, TensorSpec
from coronanet.engines.load_errors import CannotRunError
from coronanet.engines.open import Backend, open_onnx
from coronanet.model.errors import UsageError
from onnx import TensorProto, helper


def _model(operator: str = "Relu", *, opset: int = 18, ir_version: int = 8, dtype: int = TensorProto.FLOAT) -> bytes:
    """An ONNX file of one node."""
    edges = [helper.make_tensor_value_info(name, dtype, [1, 4]) for name in ("x", "y")]
    node = helper.make_node(operator, ["x"], ["y"], name="the_node")
    graph = helper.make_graph([node], "graph", edges[:1], edges[1:])
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version).SerializeToString()


@pytest.mark.parametrize(
    ("backend", "content", "reason", "page"),
    [
        ("onnxruntime", lambda: _model(opset=99), "Opset 99 is under development", "opset"),
        ("onnxruntime", lambda: _model(ir_version=99), "Unsupported model IR version: 99", "opset"),
        ("onnxruntime", lambda: _model("Cook"), "No Op registered for Cook", "unsupported-operator"),
        (
            "onnxruntime",
            lambda: _model("Round", opset=22, ir_version=10, dtype=TensorProto.BFLOAT16),
            r"Could not find an implementation for Round\(22\) node with name 'the_node'",
            "unsupported-operator",
        ),
        (
            "openvino",
            lambda: _model("Cook"),
            "No conversion rule found for operations: Cook-18",
            "unsupported-operator",
        ),
        ("onnxruntime", lambda: _model()[:40], "Protobuf parsing failed", "corrupted-file"),
        ("openvino", lambda: _model()[:40], "Unable to read the model", "corrupted-file"),
    ],
)
def test_the_reason_and_the_page_are_named(
    backend: Backend, content: Callable[[], bytes], reason: str, page: str, tmp_path: Path
) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(content())
    with pytest.raises(UsageError, match=rf"cannot load {path}: .*{reason}.*docs/errors\.md#{page}\)$") as raised:
        open_onnx(path, (), (), 1, backend=backend, precision="fp32")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("backend", "name", "error"),
    [
        (
            "onnxruntime",
            "InferenceSession",
            RuntimeError(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception during initialization: /onnxruntime_src/"
                "onnxruntime/core/framework/bfc_arena.cc:376 AllocateRawInternal(size_t) Failed to allocate memory "
                "for requested buffer of size 1179648\n"
            ),
        ),
        (
            "onnxruntime",
            "InferenceSession",
            RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Load model from network.onnx failed:std::bad_alloc"),
        ),
        (
            "onnxruntime",
            "InferenceSession",
            RuntimeError(
                "/onnxruntime_src/onnxruntime/core/platform/posix/env.cc:327 onnxruntime::{anonymous}::PosixThread::"
                "PosixThread(const char*, int) pthread_create failed, error code: 12 error msg: Cannot allocate memory"
            ),
        ),
        ("onnxruntime", "InferenceSession", MemoryError("std::bad_alloc")),
        ("openvino", "Core", RuntimeError("Exception from src/inference/src/cpp/core.cpp:109:\nstd::bad_alloc\n")),
        ("openvino", "Core", MemoryError("std::bad_alloc")),
        ("openvino", "Core", MemoryError()),
    ],
)
def test_a_file_for_which_no_memory_is_left_has_the_page_of_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: Backend, name: str, error: Exception
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise error

    runtime = importlib.import_module(backend)
    monkeypatch.setattr(getattr(runtime, name), "compile_model" if name == "Core" else "__init__", exhausted)
    sentence = "(Failed to allocate memory for .* 1179648|std::bad_alloc|Cannot allocate memory|MemoryError)"
    with pytest.raises(UsageError, match=rf"cannot load \S+: {sentence} \(docs/errors\.md#out-of-memory"):
        open_onnx(tmp_path / "network.onnx", (), (), 1, backend=backend, precision="fp32")


@pytest.mark.parametrize(
    ("backend", "error"),
    [
        ("onnxruntime", Exception("[ONNXRuntimeError] : 6 : ... Failed to allocate memory for requested buffer of 9")),
        ("openvino", RuntimeError("Exception from src/inference/src/cpp/infer_request.cpp:223:\nstd::bad_alloc\n")),
        ("openvino", MemoryError()),
    ],
)
def test_a_batch_for_which_no_memory_is_left_is_one_line_with_that_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: Backend, error: Exception
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise error

    path = tmp_path / "network.onnx"
    path.write_bytes(_model())
    spec = [TensorSpec(name, "float32", (DYNAMIC, 4)) for name in ("x", "y")]
    with open_onnx(path, (spec[0],), (spec[1],), 1, backend=backend, precision="fp32") as engine:
        attribute, method = ("_session", "run") if backend == "onnxruntime" else ("_request", "infer")
        monkeypatch.setattr(engine, attribute, SimpleNamespace(**{method: exhausted}))
        with pytest.raises(CannotRunError, match=r"cannot run this batch of 1: .*docs/errors\.md#out-of-memory\)$"):
            engine.infer({"x": np.zeros((1, 4), np.float32)})


def test_another_reason_is_the_last_line_of_the_report(tmp_path: Path) -> None:
    graph = onnx.load_model_from_string(_model())
    graph.graph.node[0].input.append("x")
    onnx.save_model(graph, tmp_path / "network.onnx")
    with pytest.raises(UsageError, match=r"Node ?\(the_node\).* has input size 2 not in range"):
        open_onnx(tmp_path / "network.onnx", (), (), 1, backend="onnxruntime", precision="fp32")
