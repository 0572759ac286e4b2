"""Running a plan: what is refused before a GPU is asked for, and with a GPU, what comes out."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from coronanet.engines import tensorrt_engine as module
from coronanet.engines.base import TensorSpec
from coronanet.engines.bundle import MANIFEST, Bundle, FileRecord, PlanTarget, Precision
from coronanet.engines.cuda_memory import Device, find_device
from coronanet.engines.open import open_engine
from coronanet.engines.plans import Host
from coronanet.engines.tensorrt_engine import TensorRtEngine, open_tensorrt
from coronanet.engines.tensorrt_runtime import load_runtime
from coronanet.export.plan_target import plan_target
from coronanet.export.to_tensorrt import build_plan
from coronanet.model.errors import RefusedError, UsageError

WithPlan = Callable[[Bundle, Precision], Bundle]


@pytest.fixture(scope="module")
def planned(tiny_bundle: Bundle, with_plan: WithPlan) -> Bundle:
    """The small network with a plan for this machine, or for every GPU from Ampere on where it has none."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    return with_plan(tiny_bundle, "fp32")


def plan_of(bundle: Bundle) -> FileRecord:
    (record,) = (record for record in bundle.manifest.files if record.kind == "plan")
    return record


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, record: FileRecord, capability: str = "8.9") -> None:
    """As if a GPU were there when the plan is chosen."""
    assert record.target is not None
    host = Host(record.target.runtime, record.target.version, capability, "NVIDIA L4")
    monkeypatch.setattr(module, "find_hosts", lambda: (host,))


def test_a_bundle_without_a_plan_says_how_to_build_one_whatever_the_machine(tiny_bundle: Bundle) -> None:
    with pytest.raises(
        UsageError, match=r"has no fp32 TensorRT plan: build one .* `coronanet export \S+ --tensorrt.*#wrong-gpu"
    ):
        open_engine(tiny_bundle, backend="tensorrt")


def test_only_networks_run_as_plans(planned: Bundle) -> None:
    with pytest.raises(UsageError, match="preprocess has no TensorRT plan: run it on onnxruntime"):
        open_engine(planned, graph="preprocess", backend="tensorrt")
    with pytest.raises(UsageError, match="tensorrt has no bf16 here: expected one of fp32, fp16, int8"):
        open_engine(planned, backend="tensorrt", precision="bf16")


@pytest.mark.skipif(find_device() is not None, reason="a GPU is here")
def test_without_a_gpu_the_message_has_cudas_reason(planned: Bundle) -> None:
    with pytest.raises(UsageError, match=r"no NVIDIA GPU can be used here \(.+\): .*docs/errors.md#no-gpu"):
        open_engine(planned, backend="tensorrt", unproved=True)


def test_a_plan_that_never_ran_is_opened_only_where_that_is_asked_for(
    planned: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_gpu(monkeypatch, plan_of(planned))
    with pytest.raises(RefusedError, match="has never run, so nothing proves what it decides"):
        open_tensorrt(planned, "fp32")
    opened: list[Path] = []
    monkeypatch.setattr(module, "TensorRtEngine", lambda path, *_, **__: opened.append(path))
    open_tensorrt(planned, "fp32", unproved=True)
    assert opened == [planned.file(plan_of(planned))]


def test_a_plan_for_another_gpu_is_refused_with_the_command(planned: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_gpu(monkeypatch, plan_of(planned), capability="7.5")
    with pytest.raises(
        UsageError, match=r"no fp32 plan for this machine \(NVIDIA L4, compute capability 7.5.*only plans/"
    ):
        open_tensorrt(planned, "fp32", unproved=True)


def test_a_plan_without_weights_takes_them_from_the_file_it_was_built_from_and_no_other(
    planned: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = plan_of(planned)
    assert record.target is not None
    on_a_gpu(monkeypatch, record)
    given: list[object] = []
    monkeypatch.setattr(module, "TensorRtEngine", lambda *_, weights, **__: given.append(weights))
    for built_from in (record.target.onnx_sha256, "0" * 64):
        target = record.target.model_copy(update={"weight_stripped": True, "onnx_sha256": built_from})
        stripped = record.model_copy(update={"target": target})
        files = tuple(stripped if file == record else file for file in planned.manifest.files)
        bundle = Bundle(planned.path, planned.manifest.model_copy(update={"files": files}), planned.card, "")
        if built_from == record.target.onnx_sha256:
            open_tensorrt(bundle, "fp32", unproved=True)
        else:
            with pytest.raises(RefusedError, match=r"has no weights and was not built from network\.fp32"):
                open_tensorrt(bundle, "fp32", unproved=True)
    assert given == [planned.file(planned.require("network"))]


@pytest.mark.parametrize("trusted", ["", "signature", "built here"])
def test_a_plan_that_brings_code_is_opened_only_where_somebody_vouches_for_it(
    planned: Bundle, monkeypatch: pytest.MonkeyPatch, trusted: str
) -> None:
    record = plan_of(planned)
    assert record.target is not None
    on_a_gpu(monkeypatch, record)
    monkeypatch.setattr(module, "built_here", {record.sha256} if trusted == "built here" else set[str]())
    opened: list[object] = []
    monkeypatch.setattr(module, "TensorRtEngine", lambda *_, **__: opened.append(1))
    portable = record.model_copy(update={"target": record.target.model_copy(update={"version_compatible": True})})
    files = tuple(portable if file == record else file for file in planned.manifest.files)
    manifest = planned.manifest.model_copy(update={"files": files})
    bundle = Bundle(planned.path, manifest, planned.card, "", is_signature_checked=trusted == "signature")
    if trusted:
        open_tensorrt(bundle, "fp32", unproved=True)
    else:
        with pytest.raises(RefusedError, match=r"no signature was checked: export with --sign .*verify --key"):
            open_tensorrt(bundle, "fp32", unproved=True)
    assert len(opened) == bool(trusted)


@pytest.mark.parametrize(("content", "reason"), [(b"no plan" * 100, "damaged"), (b"", "damaged")])
def test_a_file_that_is_no_plan_is_refused_by_the_library(
    planned: Bundle, tmp_path: Path, content: bytes, reason: str
) -> None:
    record = plan_of(planned)
    assert record.target is not None
    path = tmp_path / "broken.plan"
    path.write_bytes(content)
    with pytest.raises(RefusedError, match=rf"cannot load \S+broken.plan: the file is {reason}.*#corrupted-file"):
        module.load_plan(load_runtime(record.target.runtime), path, record.target, None)


@pytest.mark.parametrize(
    ("names", "shape", "message"),
    [
        (
            ["image", "logits"],
            (-1, 1, 64, 64),
            r"has the tensors \['image', 'logits'\], its manifest \['pixels', 'logits'\]",
        ),
        (
            ["pixels", "logits"],
            (-1, 1, 64, 32),
            r"expected pixels float32 \[\?, 1, 64, 64\], found float32 \[-1, 1, 64, 32\]",
        ),
    ],
)
def test_a_plan_of_other_tensors_than_its_manifest_says_is_refused(
    monkeypatch: pytest.MonkeyPatch, names: list[str], shape: tuple[int, ...], message: str
) -> None:
    engine = SimpleNamespace(
        num_io_tensors=len(names),
        get_tensor_name=lambda index: names[index],
        get_tensor_dtype=lambda _: np.float32,
        get_tensor_shape=lambda _: shape,
    )
    closed: list[bool] = []
    cuda = SimpleNamespace(captures=False, close=lambda: closed.append(True))
    monkeypatch.setattr(module, "open_cuda", lambda: cuda)
    monkeypatch.setattr(module, "load_runtime", lambda _: SimpleNamespace(api=SimpleNamespace(nptype=np.dtype)))
    monkeypatch.setattr(module, "load_plan", lambda *_: engine)
    pixels, logits = (TensorSpec(name, "float32", (-1, 1, 64, 64)) for name in ("pixels", "logits"))
    target = PlanTarget(runtime="tensorrt", version="11.1.0.106", compute_capability="8.9", gpu=None)
    with pytest.raises(RefusedError, match=rf"a\.plan:? {message}.*#corrupted-file"):
        TensorRtEngine(Path("a.plan"), (pixels,), (logits,), 8, target=target)
    assert closed


def test_a_changed_plan_is_refused_before_it_is_loaded(planned: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(planned.path, copy)
    plan = copy / plan_of(planned).path
    plan.write_bytes(plan.read_bytes()[:-1] + b"\0")
    with pytest.raises(RefusedError, match=r"was changed after export.*#corrupted-file"):
        Bundle.open(copy)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["queued", "graph"])
def test_a_plan_gives_what_onnx_runtime_gives_for_every_batch_size_in_any_order(
    gpu: Device, planned: Bundle, graphs: bool
) -> None:
    rng = np.random.default_rng(0)
    with open_tensorrt(planned, "fp32", unproved=True, graphs=graphs) as engine, open_engine(planned) as reference:
        for batch in (1, 8, 3, 1, 3, 8):
            feeds = {"pixels": rng.normal(0, 1, (batch, 1, 64, 64)).astype(np.float32)}
            np.testing.assert_allclose(
                engine.infer(feeds)["logits"], reference.infer(feeds)["logits"], rtol=1e-3, atol=1e-4
            )


@pytest.mark.gpu
def test_a_weight_stripped_plan_gives_what_the_whole_one_gives(
    gpu: Device, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle.path, copy)
    plan = build_plan(copy, tiny_bundle.require("network"), plan_target(weight_stripped=True))
    manifest = tiny_bundle.manifest.model_copy(update={"files": (*tiny_bundle.manifest.files, plan)})
    (copy / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    feeds = {"pixels": np.random.default_rng(0).normal(0, 1, (2, 1, 64, 64)).astype(np.float32)}
    bundle = Bundle.open(copy)
    with open_tensorrt(bundle, "fp32", unproved=True) as engine, open_engine(bundle) as reference:
        assert isinstance(engine, TensorRtEngine)
        np.testing.assert_allclose(
            engine.infer(feeds)["logits"], reference.infer(feeds)["logits"], rtol=1e-3, atol=1e-4
        )
