"""The gate of the gated model, on an ensemble that says what it is told to: Triton itself is in test_triage_model."""

import json
import runpy
import sys
from collections.abc import Callable
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

GATE = 0.5
Gated = Callable[[list[float]], list[bool]]


class _Tensor:
    def __init__(self, name: str, array: Any) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> Any:
        return self._array


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Gated:
    """``gated(probabilities)``: of which slices, one each, the lesions are segmented."""

    def answers(probabilities: list[float]) -> Callable[..., Any]:
        given: dict[str, Any] = {"infected_probability": np.array(probabilities, np.float32)[:, None]}

        def request(*, requested_output_names: list[str], inputs: list[_Tensor], **_: Any) -> Any:
            given["lesion_mask"] = np.ones(inputs[0].as_numpy().shape, np.uint8)
            tensors = [_Tensor(name, given[name]) for name in requested_output_names]
            return SimpleNamespace(
                exec=lambda: SimpleNamespace(has_error=lambda: False, output_tensors=lambda: tensors)
            )

        return request

    def run(probabilities: list[float]) -> list[bool]:
        triton = SimpleNamespace(
            get_input_tensor_by_name=lambda request, _: request.image,
            InferenceRequest=answers(probabilities),
            InferenceResponse=lambda output_tensors: output_tensors,
            PreferredMemory=lambda *_: None,
            TRITONSERVER_MEMORY_CPU=0,
            Tensor=_Tensor,
        )
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
        model = runpy.run_path(str(files("coronanet.serving") / "templates" / "triage.py"))["TritonPythonModel"]()
        told = {"ensemble": "e", "gate": "infected_probability", "gated": "lesion_mask", "threshold": str(GATE)}
        config = {"parameters": {name: {"string_value": value} for name, value in told.items()}}
        model.initialize({"model_config": json.dumps(config)})
        request = SimpleNamespace(
            image=_Tensor("image", np.zeros((len(probabilities), 4, 4), np.int16)),
            requested_output_names=lambda: ["lesion_mask"],
            is_cancelled=lambda: False,
        )
        ((mask,),) = model.execute([request])
        return [bool(each.all()) for each in mask.as_numpy()]

    return run


def test_a_slice_at_the_gate_is_segmented_and_one_below_it_is_not(gated: Gated) -> None:
    assert gated([0.49, 0.5, 0.51]) == [False, True, True]


def test_a_probability_that_is_not_a_number_is_taken_for_infected(gated: Gated) -> None:
    assert gated([0.1, float("nan")]) == [False, True]
