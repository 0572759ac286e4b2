"""Image to decision: the same on every backend, and shared steps run once."""

from typing import Any

import numpy as np
import pytest
from coronanet.engines.bundle import Bundle
from coronanet.engines.parity import labels_of
from coronanet.engines.predictor import REFERENCE, Choice, LocalEnsemble, Predictor
from coronanet.engines.slices import GateSlices
from coronanet.model.errors import UsageError
from coronanet.model.phantom import make_phantom
from coronanet.model.tasks import TASK_NAMES, TASKS, TaskName
from numpy.typing import NDArray

SERVED = Choice("onnxruntime", "fp32")


@pytest.mark.parametrize("task", TASK_NAMES)
def test_the_bundle_decides_what_torch_decides_on_real_slices(
    bundles: dict[TaskName, Bundle], real_slices: GateSlices, task: TaskName
) -> None:
    bundle = bundles[task]
    with Predictor.open(bundle, REFERENCE) as torch, Predictor.open(bundle, SERVED) as served:
        for image in real_slices.images[::4]:
            wanted = labels_of(torch.predict(image[None]), bundle.card)
            given = labels_of(served.predict(image[None]), bundle.card)
            assert given.shape == wanted.shape
            assert np.mean(given != wanted) <= bundle.card.tolerance


def test_the_ensemble_answers_on_the_input_grid_with_the_names_of_the_design(
    bundles: dict[TaskName, Bundle],
) -> None:
    image = make_phantom().image[:2, :200, :311]
    with LocalEnsemble(bundles, dict.fromkeys(bundles, SERVED)) as ensemble:
        answer = ensemble.infer({"image": np.ascontiguousarray(image)})
    assert answer["infected_probability"].shape == (2, 1)
    assert answer["infected_probability"].dtype == np.float32
    for name, highest in (("lesion_mask", 1), ("lesion_types", 3), ("lung_mask", 1)):
        assert answer[name].shape == image.shape
        assert answer[name].dtype == np.uint8
        assert answer[name].max() <= highest
    assert set(answer) == {TASKS[task].output for task in TASK_NAMES}


def test_the_ensemble_equals_each_predictor_alone(bundles: dict[TaskName, Bundle]) -> None:
    image = make_phantom().image[:1]
    with LocalEnsemble(bundles, dict.fromkeys(bundles, SERVED)) as ensemble:
        together = ensemble.infer({"image": image})
    for task, bundle in bundles.items():
        with Predictor.open(bundle, SERVED) as predictor:
            np.testing.assert_array_equal(together[TASKS[task].output], predictor.predict(image))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((64, 64), np.int16), r"expected image int16 \[\?, \?, \?\], got shape \[64, 64\]"),
        (np.zeros((1, 1, 64, 64), np.int16), r"got shape \[1, 1, 64, 64\]"),
        (np.zeros((1, 64, 64), np.float32), r"got dtype float32"),
    ],
)
def test_an_image_of_another_rank_or_dtype_is_refused(
    bundles: dict[TaskName, Bundle], image: NDArray[Any], message: str
) -> None:
    with Predictor.open(bundles["lung_segmentation"], SERVED) as predictor, pytest.raises(UsageError, match=message):
        predictor.predict(image)
