"""The verdict on what TensorRT made of a network, as parsed and, from its inspector's JSON, as built."""

import json
from typing import Any

import pytest
from coronanet.export.tensorrt_census import Census, Layer, judge, judge_engine


def convolution(node: str, *types: str, quantised: bool = False, kind: str = "CONVOLUTION") -> Layer:
    return Layer(node, kind, frozenset(types), quantised)


CENSUS = Census((convolution("a", "HALF"), convolution("b", "HALF"), Layer("act", "ACTIVATION", frozenset(), False)))


def inspector(*layers: dict[str, Any] | str) -> str:
    return json.dumps({"Layers": list(layers), "Bindings": ["pixels", "logits"]})


def built(metadata: str, *types: str, key: str = "Format/Datatype") -> dict[str, Any]:
    return {"Name": "fused", "Metadata": metadata, "Inputs": [{"Name": "x", key: each} for each in types]}


def test_a_mixed_layer_is_not_half_precision() -> None:
    gate = judge(Census((convolution("a", "HALF"), convolution("b", "HALF", "FLOAT"))), "fp16")
    assert (gate.verdict, gate.nodes) == ("refused", ("b",))
    assert gate.reason == "as parsed: 1 of 2 do not compute in fp16"


def test_a_matrix_product_counts_in_fp16_and_need_not_be_quantised_in_int8() -> None:
    product = convolution("fc", "FLOAT", kind="MATRIX_MULTIPLY")
    assert judge(Census((convolution("a", "HALF"), product)), "fp16").nodes == ("fc",)
    assert judge(Census((convolution("a", "FLOAT", quantised=True), product)), "int8").verdict == "passed"


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_network_with_nothing_in_the_precision_is_refused_even_where_everything_was_kept(precision: Any) -> None:
    gate = judge(Census((convolution("a", "FLOAT"),)), precision, kept={"a"})
    assert (gate.verdict, gate.reason) == ("refused", f"as parsed: no layer is {precision}")


@pytest.mark.parametrize(
    ("key", "half", "single"),
    [
        ("Format/Datatype", "Half", "Float"),
        ("Format/Datatype", "Channel major FP16 format where channel % 8 == 0", "Row major linear FP32"),
        ("DataType", "Half", "Float"),
    ],
)
def test_the_inspectors_types_are_read_of_every_version(key: str, half: str, single: str) -> None:
    names = "[ONNX Layer: a]\x1e[ONNX Layer: act]"
    passed = judge_engine(
        CENSUS, inspector(built(names, half, key=key), built("[ONNX Layer: b]", half, key=key)), "fp16"
    )
    assert (passed.verdict, passed.figures) == ("passed", {"compute_layers": 2, "inspected_layers": 2})
    refused = judge_engine(
        CENSUS, inspector(built(names, half, key=key), built("[ONNX Layer: b]", single, key=key)), "fp16"
    )
    assert (refused.verdict, refused.nodes) == ("refused", ("b",))
    assert refused.reason == "as built: 1 of 2 do not compute in fp16"


def test_a_float_engine_with_a_half_layer_is_refused() -> None:
    gate = judge_engine(CENSUS, inspector(built("[ONNX Layer: a]", "Float"), built("[ONNX Layer: b]", "Half")), "fp32")
    assert gate.nodes == ("b",)


def test_a_quantised_layer_must_take_int8_unless_it_was_kept() -> None:
    text = inspector(built("[ONNX Layer: a]", "Int8"), built("[ONNX Layer: b]", "Float"))
    assert judge_engine(CENSUS, text, "int8").nodes == ("b",)
    assert judge_engine(CENSUS, text, "int8", kept={"b"}).verdict == "passed"


@pytest.mark.parametrize("text", [inspector(), inspector("fused layer 1"), inspector(built("", "Half"))])
def test_an_inspector_that_names_no_node_proves_nothing(text: str) -> None:
    assert judge_engine(CENSUS, text, "fp16").verdict == "not_run"
