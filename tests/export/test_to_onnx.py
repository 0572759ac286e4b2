"""The first rung of parity: what a file takes and gives is what the contract says, by name, axes, sizes and type."""

import re
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from coronanet.engines.bundle import CARD
from coronanet.export.to_onnx import check_contract, contract, export_graph
from coronanet.model.card import Card
from coronanet.model.errors import RefusedError
from onnx import TensorProto, ValueInfoProto, helper
from torch import nn


@pytest.fixture(scope="module")
def card(tiny_source: Path) -> Card:
    """Its network takes ``pixels`` ``[?, 1, 64, 64]`` and gives ``logits`` of the same shape, both float32."""
    return Card.load(tiny_source / CARD)


def tensor(name: str, shape: Sequence[int | str], kind: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


PIXELS = tensor("pixels", ["batch", 1, 64, 64])
LOGITS = tensor("logits", ["batch", 1, 64, 64])


def write(path: Path, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> Path:
    onnx.save_model(helper.make_model(helper.make_graph([], "graph", inputs, outputs)), path)
    return path


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([tensor("image", [1])], [LOGITS], "expected inputs ['pixels'], found ['image']"),
        ([PIXELS], [LOGITS, PIXELS], "expected outputs ['logits'], found ['logits', 'pixels']"),
        ([tensor("pixels", ["batch", 64, 64])], [LOGITS], "[?, 1, 64, 64] with 4 axes, found 3"),
        (
            [PIXELS],
            [tensor("logits", ["batch", 1, 64, 32])],
            "logits float32 [?, 1, 64, 64], found shape [-1, 1, 64, 32]",
        ),
        ([tensor("pixels", [2, 1, 64, 64])], [LOGITS], "[?, 1, 64, 64], but an axis was fixed: [2, 1, 64, 64]"),
        ([PIXELS], [tensor("logits", [2, 1, 64, 64])], "[?, 1, 64, 64], but an axis was fixed: [2, 1, 64, 64]"),
        (
            [tensor("pixels", ["batch", 1, 64, 64], TensorProto.INT16)],
            [LOGITS],
            "pixels float32 [?, 1, 64, 64], found int16",
        ),
        ([PIXELS], [tensor("logits", ["batch", 1, 64, 64], TensorProto.FLOAT16)], "[?, 1, 64, 64], found FLOAT16"),
    ],
    ids=["another input", "one output more", "axes", "size", "fixed input", "fixed output", "type in", "type out"],
)
def test_a_file_that_breaks_the_contract_is_refused_with_expected_and_found(
    card: Card, tmp_path: Path, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto], message: str
) -> None:
    path = write(tmp_path / "network.onnx", inputs, outputs)
    with pytest.raises(
        RefusedError, match=rf"^network\.onnx: .*{re.escape(message)} \(docs/errors\.md#gate-refused\)$"
    ):
        check_contract(path, *contract(card, "network"))


def test_a_file_that_keeps_it_passes_and_may_leave_a_size_of_its_output_open(card: Card, tmp_path: Path) -> None:
    for logits in (LOGITS, tensor("logits", ["batch", 1, "height", "width"])):
        check_contract(write(tmp_path / "network.onnx", [PIXELS], [logits]), *contract(card, "network"))


def test_what_is_exported_is_held_against_the_contract(card: Card, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"found shape \[-1, 2, 64, 64\] .*#gate-refused"):
        export_graph(card, "network", nn.Conv2d(1, 2, 3, padding=1), tmp_path / "network.onnx")
