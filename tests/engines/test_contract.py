"""The contract that every backend keeps, on the network of a bundle that ships."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from coronanet.engines.base import Engine
from coronanet.engines.bundle import Bundle, Precision
from coronanet.engines.open import BACKENDS, GPU_BACKENDS, PRECISIONS, is_installed, open_engine
from coronanet.engines.predictor import Choice
from coronanet.engines.triton_engine import TritonEngine
from coronanet.model.errors import MissingPackageError, UsageError
from coronanet.model.tasks import TaskName
from coronanet.serving.server import TritonServer
from numpy.typing import NDArray

CHOICES = [
    pytest.param(Choice(backend, precision), marks=[pytest.mark.gpu] if backend in GPU_BACKENDS else [])
    for backend in BACKENDS
    for precision in PRECISIONS[backend]
]
#: Largest difference that batching may make to a logit, by precision.
BATCHING = {"fp32": 1e-3, "fp16": 0.05, "bf16": 0.5, "int8": 0.5}
TRITON = pytest.param("triton", marks=pytest.mark.xdist_group("servers"))


@pytest.fixture(scope="module", params=[*CHOICES, TRITON], ids=str)
def engine(bundles: dict[TaskName, Bundle], request: pytest.FixtureRequest) -> Iterator[Engine]:
    """The same network on every backend, the real Triton server among them."""
    with _open(bundles["lung_segmentation"], request) as opened:
        yield opened


def _open(bundle: Bundle, request: pytest.FixtureRequest) -> Engine:
    choice: Choice | str = request.param
    if isinstance(choice, str):
        server: TritonServer = request.getfixturevalue("triton_server")
        return TritonEngine(server.address, model=bundle.card.task)
    if not is_installed(choice.backend):
        pytest.skip(f"{choice.backend} is not installed")
    try:
        if choice.backend == "tensorrt":
            request.getfixturevalue("gpu")
            with_plan: Callable[[Bundle, Precision], Bundle] = request.getfixturevalue("with_plan")
            bundle = with_plan(bundle, choice.precision)
        # A plan is built without running, so nothing has proved it yet.
        return open_engine(bundle, backend=choice.backend, precision=choice.precision, unproved=True)
    except UsageError as error:
        pytest.skip(str(error))


def pixels(batch: int = 1, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (batch, 1, 384, 384)).astype(np.float32)


def test_it_says_what_it_takes_and_gives(engine: Engine) -> None:
    assert [str(spec) for spec in engine.inputs] == ["pixels float32 [?, 1, 384, 384]"]
    assert [str(spec) for spec in engine.outputs] == ["logits float32 [?, 1, 384, 384]"]
    assert engine.max_batch == 8


def test_it_returns_exactly_its_outputs_for_every_batch_size(engine: Engine) -> None:
    for batch in (1, 3, 8):
        answer = engine.infer({"pixels": pixels(batch)})
        assert set(answer) == {"logits"}
        assert answer["logits"].shape == (batch, 1, 384, 384)
        assert answer["logits"].dtype == np.float32


def test_what_it_returns_belongs_to_the_caller(engine: Engine) -> None:
    first = engine.infer({"pixels": pixels(seed=1)})["logits"]
    kept = first.copy()
    engine.infer({"pixels": pixels(seed=2)})
    np.testing.assert_array_equal(first, kept)
    first[:] = 0


def test_the_batch_does_not_change_a_slice(engine: Engine, request: pytest.FixtureRequest) -> None:
    batch = pixels(4)
    alone = np.concatenate([engine.infer({"pixels": batch[i : i + 1]})["logits"] for i in range(4)])
    together = engine.infer({"pixels": batch})["logits"]
    ran = request.node.callspec.params["engine"]
    if not isinstance(ran, Choice):
        ran = request.getfixturevalue("choices")["lung_segmentation"]
    allowed = BATCHING[ran.precision]
    np.testing.assert_allclose(together, alone, atol=allowed)


def test_it_leaves_its_feeds_alone_and_takes_a_view(engine: Engine) -> None:
    wide = np.repeat(pixels(), 2, axis=3)
    view = wide[..., ::2]
    before = view.copy()
    answer = engine.infer({"pixels": view})["logits"]
    np.testing.assert_array_equal(view, before)
    np.testing.assert_array_equal(answer, engine.infer({"pixels": before})["logits"])


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, r"expected the inputs \['pixels'\], got \[\]"),
        ({"image": pixels()}, r"expected the inputs \['pixels'\], got \['image'\]"),
        ({"pixels": pixels(), "more": pixels()}, r"got \['more', 'pixels'\]"),
        ({"pixels": pixels().astype(np.float64)}, r"expected pixels float32 .*, got dtype float64"),
        ({"pixels": pixels()[0]}, r"expected pixels float32 .*, got shape \[1, 384, 384\]"),
        ({"pixels": pixels()[:, :, :128]}, r"got shape \[1, 1, 128, 384\]"),
        ({"pixels": pixels(0)}, r"got shape \[0, 1, 384, 384\]"),
        ({"pixels": pixels(9)}, r"expected a batch of at most 8, got 9"),
    ],
)
def test_wrong_feeds_say_what_was_expected_and_what_came(
    engine: Engine, feeds: dict[str, NDArray[np.float32]], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        engine.infer(feeds)


def test_a_missing_backend_names_the_extra_that_brings_it(
    bundles: dict[TaskName, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"openvino, which is not installed: pip install 'coronanet\[cpu\]'"):
        open_engine(bundles["lung_segmentation"], backend="openvino")


def test_a_precision_that_a_backend_does_not_have_lists_those_it_has(bundles: dict[TaskName, Bundle]) -> None:
    with pytest.raises(UsageError, match="onnxruntime has no bf16 here: expected one of fp32, fp16"):
        open_engine(bundles["lung_segmentation"], backend="onnxruntime", precision="bf16")
