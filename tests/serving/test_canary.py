"""What counts as the right answer, and that it is computed from the repository's own files."""

from pathlib import Path

import numpy as np
import pytest
from coronanet.engines.places import HOME_VARIABLE
from coronanet.engines.triton_engine import TritonEngine
from coronanet.serving.canary import Canary, GatedModel, difference, unseen
from coronanet.serving.server import TritonServer
from numpy.typing import NDArray

RNG = np.random.default_rng(0)
LUNGS = np.zeros((1, 128, 128), np.uint8)
LUNGS[:, 30:90, 20:110] = 1


def _floats(*values: float) -> NDArray[np.float32]:
    return np.array([values], np.float32)


def _noisy(values: NDArray[np.float32], relative: float) -> NDArray[np.float32]:
    noise = RNG.normal(0, relative * float(np.sqrt(np.mean(values**2))), values.shape)
    return (values + noise).astype(np.float32)


def test_what_another_engine_or_precision_gives_is_right() -> None:
    logits = RNG.normal(0, 4, (1, 4, 96, 96)).astype(np.float32)
    assert difference(logits, _noisy(logits, 0.02)) == ""
    probability = np.full((1, 1), 0.73, np.float32)
    assert difference(probability, probability + np.float32(0.03)) == ""
    edge = LUNGS.copy()
    edge[:, 30, :] = 0
    assert difference(LUNGS, edge) == ""


@pytest.mark.parametrize(
    ("expected", "received", "match"),
    [
        (LUNGS, np.zeros_like(LUNGS), "5400 pixels have another label, expected at most 1080"),
        (LUNGS, np.roll(LUNGS, 20, axis=2), "pixels have another label"),
        (LUNGS, LUNGS * 2, "5400 pixels"),
        (LUNGS, LUNGS[:, :64], r"expected uint8 \[1, 128, 128\], got uint8 \[1, 64, 128\]"),
        (LUNGS, LUNGS.astype(np.float32), "got float32"),
        (_floats(0.73), _floats(0), "0.73 off, expected at most 0.123"),
        (_floats(0.73), _floats(np.nan), "nan off"),
        (_floats(3, -4), _floats(0, 0), "off"),
    ],
    ids=["zeros", "shifted", "labels", "shape", "dtype", "probability", "nan", "logits"],
)
def test_what_is_not_right_is_said(expected: NDArray[np.generic], received: NDArray[np.generic], match: str) -> None:
    with pytest.raises(AssertionError, match=match):
        assert difference(expected, received) == ""


def test_the_right_answer_is_the_served_one_and_says_something(triton_server: TritonServer) -> None:
    canary = Canary.of(triton_server.repository)
    assert set(canary.outputs) == {"infected_probability", "lesion_mask", "lesion_types", "lung_mask"}
    with TritonEngine(triton_server.address) as engine:
        served = engine.infer({"image": canary.tensors["image"]})
    for name in canary.outputs:
        expected = canary.tensors[name]
        assert difference(expected, served[name]) == ""
        # Zeros must not pass for any of the outputs.
        assert difference(expected, np.zeros_like(expected)) != "", name


def test_it_is_computed_once_and_kept(small_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    first = Canary.of(small_repository)
    (kept,) = (tmp_path / "triton" / "canaries").iterdir()
    written = kept.stat().st_mtime_ns
    second = Canary.of(small_repository)
    assert kept.stat().st_mtime_ns == written
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        np.testing.assert_array_equal(tensor, second.tensors[name])


@pytest.mark.parametrize("tensor", [np.zeros((1, 128, 128), np.int16), _floats(0.7), _floats(3, -4, 5).reshape(1, 3)])
def test_no_two_canaries_are_the_same_request(tensor: NDArray[np.generic]) -> None:
    asked = [unseen(tensor) for _ in range(20)]
    assert {(array.dtype, array.shape) for array in asked} == {(tensor.dtype, tensor.shape)}
    assert len({array.tobytes() for array in asked}) == len(asked)


def test_its_noise_has_no_weight_for_the_answer(triton_server: TritonServer) -> None:
    canary = Canary.of(triton_server.repository)
    with TritonEngine(triton_server.address) as engine:
        plain, noisy = (
            engine.infer({"image": image}) for image in (canary.tensors["image"], unseen(canary.tensors["image"]))
        )
    for name, array in plain.items():
        if array.dtype == np.uint8:
            # A tenth of what may differ, so that the noise uses up none of what engines need.
            assert np.count_nonzero(array != noisy[name]) <= 0.02 * max(1, np.count_nonzero(array)), name
        else:
            assert np.abs(array - noisy[name]).max() < 0.01, name


def test_what_the_gated_model_should_answer() -> None:
    right = {"probability": _floats(0.73), "lesions": LUNGS, "lungs": LUNGS}
    gated = GatedModel("probability", ("lesions",), 0.7)
    assert gated.expected(right, right)["lesions"].any()
    below = gated.expected(right, {**right, "probability": _floats(0.69)})
    assert not below["lesions"].any()
    assert below["lungs"].any()
    assert below["lesions"].dtype == np.uint8
