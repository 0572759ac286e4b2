"""Engines on the GPU that need no plan: what is said where there is none, and what comes out where one is."""

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from coronanet.engines.base import Tensors, TensorSpec
from coronanet.engines.bundle import Bundle
from coronanet.engines.cuda_engine import CudaEngine
from coronanet.engines.cuda_memory import Buffer, Device
from coronanet.engines.open import Backend, is_installed, open_engine
from coronanet.engines.slices import phantom_slices
from coronanet.export.options import Wanted
from coronanet.export.pipeline import export_bundle
from coronanet.model.errors import MissingPackageError, UsageError

BACKENDS: tuple[Backend, ...] = ("onnxruntime_cuda", "torch_cuda")


@pytest.fixture(scope="module")
def halved(tiny_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The small network with an fp16 form."""
    return export_bundle(tiny_source, tmp_path_factory.mktemp("halved"), phantom_slices(), Wanted(half=True))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, gpu: Device) -> Backend:
    """Each of them, on the GPU that is here."""
    if not is_installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


def noise(batch: int, seed: int = 0) -> Tensors:
    return {"pixels": np.random.default_rng(seed).normal(0, 1, (batch, 1, 64, 64)).astype(np.float32)}


@pytest.mark.parametrize(
    ("backend", "package"), [("onnxruntime_cuda", "onnxruntime-gpu"), ("torch_cuda", "torch for CUDA")]
)
def test_where_it_is_not_installed_what_brings_it_is_named(tiny_bundle: Bundle, backend: Backend, package: str) -> None:
    if is_installed(backend):
        pytest.skip(f"{backend} is installed")
    with pytest.raises(MissingPackageError, match=rf"{package}, which is not installed: pip install 'coronanet\["):
        open_engine(tiny_bundle, backend=backend)


@pytest.mark.parametrize(
    ("backend", "package", "file"),
    [
        ("onnxruntime_cuda", "onnxruntime", "capi/libonnxruntime_providers_cuda.so"),
        ("torch_cuda", "torch", "lib/libtorch_cuda.so"),
    ],
)
def test_it_is_found_by_its_library_and_without_an_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: Backend, package: str, file: str
) -> None:
    folder = tmp_path / package
    (folder / file).parent.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, package, raising=False)
    assert not is_installed(backend)
    (folder / file).touch()
    assert is_installed(backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_has_no_int8(tiny_bundle: Bundle, backend: Backend) -> None:
    with pytest.raises(UsageError, match=rf"{backend} has no int8 here: expected one of fp32, fp16"):
        open_engine(tiny_bundle, backend=backend, precision="int8")


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["queued", "graph"])
def test_it_gives_what_the_cpu_gives_for_every_batch_size_in_any_order(
    backend: Backend, tiny_bundle: Bundle, graphs: bool
) -> None:
    with open_engine(tiny_bundle, backend=backend, graphs=graphs) as engine, open_engine(tiny_bundle) as reference:
        assert isinstance(engine, CudaEngine)
        assert engine.replays_graphs is graphs
        for seed, batch in enumerate((1, 8, 3, 1, 3, 8, 1, 8, 3)):
            feeds = noise(batch, seed)
            # So near that TF32, which keeps ten bits, would not pass.
            np.testing.assert_allclose(
                engine.infer(feeds)["logits"], reference.infer(feeds)["logits"], rtol=1e-4, atol=2e-5
            )


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["queued", "graph"])
def test_half_precision_is_near_and_not_equal(backend: Backend, halved: Bundle, graphs: bool) -> None:
    with (
        open_engine(halved, backend=backend, precision="fp16", graphs=graphs) as engine,
        open_engine(halved) as reference,
    ):
        for seed, batch in enumerate((4, 1, 4, 1)):
            feeds = noise(batch, seed)
            answer, expected = engine.infer(feeds)["logits"], reference.infer(feeds)["logits"]
            assert 0 < np.abs(answer - expected).max() < 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["queued", "graph"])
def test_a_call_is_taken_apart_and_calls_go_on_as_before(backend: Backend, tiny_bundle: Bundle, graphs: bool) -> None:
    feeds = noise(3)
    with open_engine(tiny_bundle, backend=backend, graphs=graphs) as engine:
        assert isinstance(engine, CudaEngine)
        before = engine.infer(feeds)["logits"]
        for _ in range(3):
            stages = engine.time_stages(feeds)
            assert min(stages.upload_ns, stages.compute_ns, stages.download_ns) > 0
        np.testing.assert_array_equal(engine.infer(feeds)["logits"], before)


@pytest.mark.gpu
def test_a_file_that_is_no_network_is_refused(gpu: Device, tiny_bundle: Bundle, tmp_path: Path) -> None:
    if not is_installed("onnxruntime_cuda"):
        pytest.skip("onnxruntime-gpu is not installed")
    copy = tmp_path / "copy"
    shutil.copytree(tiny_bundle.path, copy)
    network = copy / tiny_bundle.require("network").path
    network.write_bytes(b"no network")
    bundle = Bundle(copy, tiny_bundle.manifest, tiny_bundle.card, "")
    with pytest.raises(UsageError, match="ONNX Runtime on CUDA cannot load"):
        open_engine(bundle, backend="onnxruntime_cuda")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Conv node. "
            "Name:'up_3' Status Message: /onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 void* "
            "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer "
            "of size 8388608000\n",
            r"batch of 2: Failed to allocate memory for .* of size 8388608000 \(docs/errors\.md#out-of-memory",
        ),
        (
            "Non-zero status code returned while running Conv node. CUDA failure 2: out of memory ; GPU=0",
            r"batch of 2: CUDA failure 2: out of memory \(docs/errors\.md#out-of-memory",
        ),
        ("the device is lost\nat line 7", r"batch of 2: the device is lost$"),
    ],
    ids=["its arena", "CUDA", "another fault"],
)
def test_a_batch_that_onnx_runtime_cannot_run_is_one_line_and_has_the_page_of_memory_where_that_ran_out(
    monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    module = pytest.importorskip("coronanet.engines.onnxruntime_cuda_engine")
    nothing = SimpleNamespace(bind_input=lambda *_: None, bind_output=lambda *_: None)

    def fail(*_: object) -> None:
        raise RuntimeError(said)

    session = SimpleNamespace(io_binding=lambda: nothing, run_with_iobinding=fail)
    monkeypatch.setattr(module, "open_cuda", FakeCuda)
    monkeypatch.setattr(module, "load_libraries", lambda: None)
    monkeypatch.setattr(module, "_open_session", lambda *_, **__: session)
    specs = (TensorSpec("pixels", "float32", (-1, 1, 64, 64)),), (TensorSpec("logits", "float32", (-1, 1)),)
    with (
        module.OnnxRuntimeCudaEngine(Path("network.onnx"), *specs, 8) as engine,
        pytest.raises(UsageError, match=f"ONNX Runtime on CUDA cannot run this {told}"),
    ):
        engine.infer(noise(2))


class FakeCuda:
    """A GPU on which nothing happens."""

    captures = False

    def buffer(self, size: int) -> Buffer:
        return Buffer(np.zeros(size, np.uint8), address=0)

    def upload(self, *_: object) -> None: ...
    def synchronise(self) -> None: ...
    def close(self) -> None: ...
