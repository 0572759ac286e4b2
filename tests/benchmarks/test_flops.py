"""Operations and bytes against layers counted by hand, and networks whose totals are known."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from coronanet.benchmarks.flops import Layer, count_layers, total_flops
from coronanet.benchmarks.report import Ceilings, MemoryLevel
from coronanet.benchmarks.roofline import bound, under
from coronanet.engines.bundle import Precision
from coronanet.export.half import convert_to_half
from coronanet.model.errors import UsageError
from coronanet.model.networks.unet import UNet
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    shape: tuple[int | str, ...],
    weights: dict[str, NDArray[Any]],
    **types: int,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", types.get("x", TensorProto.FLOAT), shape)],
        [helper.make_tensor_value_info("y", types.get("y", TensorProto.FLOAT), None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def test_a_convolution_counts_two_operations_a_weight_and_pixel_and_its_activation_in_passing(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    file = save(tmp_path / "m.onnx", nodes, ("N", 3, 8, 8), {"w": zeros(16, 3, 3, 3), "b": zeros(16)})
    (layer,) = count_layers(file, 2)
    results = 2 * 16 * 4 * 4
    assert layer == Layer(
        name="conv",
        operator="Conv",
        precision="fp32",
        flops=results * 3 * 3 * 3 * 2 + results,
        read=4 * (2 * 3 * 8 * 8 + 16 * 3 * 3 * 3 + 16),
        written=4 * results,
    )


def test_groups_transposed_convolutions_and_products(tmp_path: Path) -> None:
    depthwise = [helper.make_node("Conv", ["x", "w"], ["y"], group=4, pads=[1, 1, 1, 1])]
    file = save(tmp_path / "d.onnx", depthwise, (1, 4, 8, 8), {"w": zeros(4, 1, 3, 3)})
    assert total_flops(count_layers(file, 1)) == 2 * 4 * 64 * 9
    transposed = [helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2])]
    file = save(tmp_path / "t.onnx", transposed, (1, 4, 8, 8), {"w": zeros(4, 6, 2, 2)})
    assert total_flops(count_layers(file, 1)) == 2 * (4 * 64) * (6 * 2 * 2)
    product = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    file = save(tmp_path / "p.onnx", product, ("N", 5, 7), {"w": zeros(7, 11)})
    assert total_flops(count_layers(file, 3)) == 2 * 3 * 5 * 7 * 11
    gemm = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    file = save(tmp_path / "g.onnx", gemm, ("N", 7), {"w": zeros(11, 7)})
    assert total_flops(count_layers(file, 3)) == 2 * 3 * 7 * 11


def test_a_sum_of_two_branches_reads_the_other_one_and_pools_count_what_they_look_at(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w"], ["c"]),
        helper.make_node("Add", ["c", "p"], ["y"]),
    ]
    file = save(tmp_path / "m.onnx", nodes, (1, 4, 8, 8), {"w": zeros(4, 4, 1, 1)})
    pool, conv = count_layers(file, 1)
    assert pool.flops == 4 * 16 * 4
    assert conv.flops == 2 * 64 * 4 + 64
    assert conv.read == 4 * (64 + 16 + 64)


def test_eight_bits_take_one_byte_and_count_as_int8(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w8", "s", "z"], ["w"]),
        helper.make_node("Conv", ["d", "w"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "s", "z"], ["y"]),
    ]
    weights = {"w8": np.zeros((4, 4, 1, 1), np.int8), "s": np.float32(1), "z": np.int8(0)}
    file = save(tmp_path / "m.onnx", nodes, (1, 4, 8, 8), {name: np.asarray(one) for name, one in weights.items()})
    (layer,) = count_layers(file, 1)
    assert layer.precision == "int8"
    assert (layer.read, layer.written) == (256 + 16, 256)


def export_unet(features: int, side: int, file: Path) -> Path:
    """The talk's U-Net for any batch, weights left as they fall."""
    warnings.simplefilter("ignore")  # of the exporter's own parts, until the end of the test
    batch = torch.export.Dim("batch", min=1, max=8)
    example, shapes = (torch.zeros(2, 1, side, side),), ({0: batch},)
    network = UNet(1, features, 0.1).eval()
    program = torch.onnx.export(network, example, dynamo=True, dynamic_shapes=shapes, verbose=False)
    assert program is not None
    program.save(file)
    return file


def test_the_u_net_of_the_talk_takes_119_gflop_a_slice(tmp_path: Path) -> None:
    file = export_unet(32, 512, tmp_path / "unet.onnx")
    layers = count_layers(file, 1)
    assert total_flops(layers) / 1e9 == pytest.approx(119, abs=1)
    assert total_flops(count_layers(file, 4)) == 4 * total_flops(layers)


def test_half_precision_moves_half_the_bytes_and_counts_the_same_operations(tmp_path: Path) -> None:
    file = export_unet(4, 64, tmp_path / "unet.onnx")
    single = count_layers(file, 1)
    kinds: tuple[Precision, ...] = ("bf16", "fp16")
    for kind in kinds:
        half = count_layers(file, 1, arithmetic=kind)
        assert {layer.precision for layer in half} == {kind}
        assert sum(layer.bytes for layer in half) == sum(layer.bytes for layer in single) // 2
    convert_to_half(file, tmp_path / "half.onnx")
    half = count_layers(tmp_path / "half.onnx", 1)
    assert total_flops(half) == pytest.approx(total_flops(single), rel=0.001)
    assert sum(layer.flops for layer in half if layer.precision == "fp16") > 0.99 * total_flops(single)
    assert sum(layer.bytes for layer in half) == pytest.approx(sum(layer.bytes for layer in single) / 2, rel=0.02)


def test_what_cannot_be_inferred_is_said(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    with pytest.raises(UsageError, match=r"m\.onnx: the shape of \S+ cannot be inferred"):
        count_layers(save(tmp_path / "m.onnx", nodes, ("N", 3, "H", "W"), {}), 1)


def layer(flops: int, moved: int, precision: Precision = "fp32") -> Layer:
    return Layer("l", "Conv", precision, flops, moved, 0)


CEILINGS = Ceilings(
    device="cpu",
    flops_per_s={"fp32": 1e9, "bf16": 4e9},
    reached_by={},
    bytes_per_s=1e8,
    memory=(
        MemoryLevel(working_set_bytes=1000, bytes_per_s=1e9),
        MemoryLevel(working_set_bytes=10**6, bytes_per_s=1e8),
    ),
)


def test_a_layer_takes_the_larger_of_computing_and_moving() -> None:
    assert (bound(layer(10**9, 1), CEILINGS).bound_ms, bound(layer(10**9, 1), CEILINGS).limit) == (1000, "compute")
    assert (bound(layer(1, 10**8), CEILINGS).bound_ms, bound(layer(1, 10**8), CEILINGS).limit) == (1000, "memory")
    assert bound(layer(10**9, 1, "bf16"), CEILINGS).bound_ms == 250
    assert bound(layer(10**9, 1, "int8"), CEILINGS).bound_ms == 1000


def test_what_fits_into_a_cache_moves_at_its_rate() -> None:
    assert bound(layer(0, 1000), CEILINGS).bound_ms == pytest.approx(0.001)
    assert bound(layer(0, 2000), CEILINGS).bound_ms == pytest.approx(0.02)
    assert bound(layer(0, 10**7), CEILINGS).bound_ms == pytest.approx(100)


def test_the_roof_is_the_sum_of_the_layers_and_not_the_roof_of_their_sum() -> None:
    roof = under([layer(10**9, 0), layer(0, 10**8)], "fp32", p50_ms=4000, ceilings=CEILINGS)
    assert roof.bound_ms == 2000
    assert roof.compute_bound_ms == 1000
    assert roof.share == 0.5
