"""Decisions that need no network, and records of the networks that did not run."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from coronanet.model.findings import Decisions
from coronanet.model.phantom import Phantom, make_labelled_phantom
from coronanet.model.tasks import TASK_NAMES
from coronanet.serving.report import ModelRecord


@cache
def drawn() -> Phantom:
    return make_labelled_phantom(size=64, slices=6)


@pytest.fixture
def models() -> tuple[ModelRecord, ...]:
    """One record a network, with a hash of its own; the last ran behind a server that does not tell it, the one before
    behind one that does.
    """
    told = [
        ModelRecord(task, f"{number:02x}" * 32, backend, "fp32")
        for number, (task, backend) in enumerate(
            zip(TASK_NAMES[:-1], ("onnxruntime", "onnxruntime", "openvino on triton"), strict=True)
        )
    ]
    return (*told, ModelRecord(TASK_NAMES[-1], None, "triton", None))


@pytest.fixture
def planted() -> Callable[[], Decisions]:
    """The phantom's own lesions as if found, with corners by which each of the six slices can be told and turned."""

    def plant() -> Decisions:
        phantom = drawn()
        types, lung = phantom.lesion_types.copy(), phantom.lung_mask.copy()
        # Nearly nothing at the ends, so that the lungs are whole.
        lung[[0, 5]] = 0
        for index in range(6):
            types[index, index, :3] = 1 + index % 3
            lung[index, :2, 60 - index] = 1
        return Decisions(np.linspace(0, 1, 6, dtype=np.float32), phantom.lesion_mask, types, lung)

    return plant
