"""What a step of the embedded server answers where its engine fails: Triton itself is in test_server."""

import runpy
import sys
from importlib.resources import files
from types import SimpleNamespace

import pytest
from coronanet.engines.load_errors import CannotRunError
from coronanet.model.errors import CoronanetError, UsageError
from coronanet.serving import step


class _TritonError:
    INVALID_ARG, INTERNAL = "INVALID_ARG", "INTERNAL"

    def __init__(self, message: str, code: str) -> None:
        self.said = (message, code)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("expected image int16 [N, H, W], got shape [3]"), "INVALID_ARG"),
        (CannotRunError("OpenVINO cannot run this batch of 8: std::bad_alloc"), "INTERNAL"),
    ],
)
def test_what_the_machine_cannot_do_is_not_called_a_wrong_request(
    monkeypatch: pytest.MonkeyPatch, error: CoronanetError, status: str
) -> None:
    def fail(_: object) -> None:
        raise error

    triton = SimpleNamespace(InferenceResponse=lambda error: error, TritonError=_TritonError)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    monkeypatch.setattr(step, "open_step", lambda _: SimpleNamespace(infer=fail))
    model = runpy.run_path(str(files("coronanet.serving") / "templates" / "step.py"))["TritonPythonModel"]()
    model.initialize({"model_repository": "/models/x", "model_version": "1", "model_name": "preprocess"})
    (answer,) = model.execute([SimpleNamespace(inputs=list)])
    assert answer.said == (str(error), status)
