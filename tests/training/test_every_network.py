"""Every network of the talk trains, becomes fp32 and fp16 ONNX, and decides there what it decides in torch."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from coronanet.engines.base import TensorSpec
from coronanet.engines.bundle import Graph
from coronanet.engines.datasets import load_split
from coronanet.engines.onnxruntime_engine import OnnxRuntimeEngine
from coronanet.engines.parity import Reference, compare
from coronanet.engines.predictor import Predictor
from coronanet.engines.samples import Split
from coronanet.engines.slices import phantom_slices
from coronanet.engines.torch_engine import TorchEngine
from coronanet.export.census import take_census
from coronanet.export.half import convert_to_half
from coronanet.export.options import MAX_BATCH
from coronanet.export.to_onnx import contract, export_graph
from coronanet.model.card import Card, Geometry, Network
from coronanet.model.networks import CLASSIFIERS, SEGMENTERS
from coronanet.model.networks.efficientnet import COEFFICIENTS
from coronanet.model.networks.resnet import VARIANTS
from coronanet.model.pixels import Preprocess, build_decide
from coronanet.model.tasks import TASKS, TaskName
from coronanet.model.weights import load_network, save_weights
from coronanet.training.learner import Learner
from coronanet.training.recipes import Recipe
from coronanet.training.train import make_card
from coronanet.training.views import Views
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import default_collate

STEPS = 12
BATCH_SIZE = 16
#: Share of labels on which the forms may differ: many pixels of a network that has hardly learnt are near a tie.
TOLERANCE = 3e-3


def networks(task: TaskName, family: str, *choices: dict[str, int | float | str]) -> list[tuple[TaskName, Network]]:
    return [(task, Network(family=family, parameters=parameters)) for parameters in choices]


NETWORKS = [
    *networks("classification", "resnet", *({"variant": variant, "width": 0.25} for variant in VARIANTS)),
    *networks("classification", "fpn", {"variant": "resnet18", "width": 0.125, "filters": 8}),
    *networks("classification", "efficientnet", *({"variant": variant, "width": 0.25} for variant in COEFFICIENTS)),
    *networks("classification", "efficientnet_lite", {}),
    *networks("binary_segmentation", "unet", {"features": 4}),
    *networks("multiclass_segmentation", "unet", {"features": 4}),
    *networks("binary_segmentation", "fcn", {"features": 4}),
    *networks("binary_segmentation", "unetplusplus", {"features": 4}),
    *networks("multiclass_segmentation", "efficientnet_lite", {"decoder": 8, "turns": 4}),
]


def name_of(value: object) -> str:
    if isinstance(value, Network):
        return f"{value.family}-{value.parameters['variant']}" if "variant" in value.parameters else value.family
    return str(value)


@pytest.fixture(scope="module")
def split(synthetic_data: Path) -> Split:
    return load_split(["lung_segmentation"], synthetic_data)


def test_no_family_is_left_out() -> None:
    assert {network.family for task, network in NETWORKS if TASKS[task].is_segmentation} == set(SEGMENTERS)
    assert {network.family for task, network in NETWORKS if not TASKS[task].is_segmentation} == set(CLASSIFIERS)


# Lightning's own words: a step without a trainer is not an error, to support tests.
@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """A sum depends on how many threads share it, and so does how far a hardly trained network's answers spread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")
@pytest.mark.parametrize(("task", "network"), NETWORKS, ids=name_of)
def test_a_network_trains_and_its_onnx_forms_decide_as_torch_does(
    task: TaskName, network: Network, split: Split, tmp_path: Path
) -> None:
    # A classifier's last features are 1/32 of this, and their statistics need more than a handful of values.
    size = 64 if TASKS[task].is_segmentation else 128
    geometry = Geometry(height=size, width=size)
    card = make_card(task, network, split, {}).model_copy(update={"geometry": geometry, "tolerance": TOLERANCE})
    save_weights(train_a_little(card, split), tmp_path / "weights.safetensors")
    trained = load_network(card, tmp_path / "weights.safetensors")

    single, half = tmp_path / "fp32.onnx", tmp_path / "fp16.onnx"
    export_graph(card, "network", trained, single)
    convert_to_half(single, half)
    assert take_census(half, "fp16").verdict == "passed"

    reference = Reference.of(predictor(card, trained), card, phantom_slices(), name="torch fp32")
    # A network that says the same of everything would agree with anything.
    logits = np.concatenate([answer.logits for answer in reference.answers])
    for path, share in ((single, 1e-3), (half, 0.03)):
        evidence = compare("network", reference, predictor(card, path)).evidence
        assert evidence.verdict == "passed", evidence.reason
        assert evidence.max_difference is not None
        assert evidence.max_difference < share * np.ptp(logits)


def train_a_little(card: Card, split: Split) -> nn.Module:
    """A few real steps on synthetic data: every loss is finite, and no weight stays where it was."""
    torch.manual_seed(0)
    recipe = Recipe(card.network, steps=STEPS)
    learner = Learner({card.task: card}, recipe, split.validation).train()
    network = learner.network(card.task)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    views = Views(split.train, card.geometry, recipe)
    batch = default_collate([views[index] for index in range(BATCH_SIZE)])
    configured = learner.configure_optimizers()
    for step in range(STEPS):
        loss = learner.training_step(batch, step)
        assert torch.isfinite(loss)
        configured["optimizer"].zero_grad()
        loss.backward()
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert [name for name, value in network.named_parameters() if torch.equal(value, before[name])] == []
    # So few steps leave the running statistics far behind the weights.
    update_bn([learner.preprocess(batch[0])], network)
    return network.eval()


def predictor(card: Card, network: nn.Module | Path) -> Predictor:
    """The chain with torch at its edges, so that only the network's own form can differ."""
    edges: dict[Graph, nn.Module] = {"preprocess": Preprocess(card), "decide": build_decide(card)}
    inputs, outputs = specs(card, "network")
    if isinstance(network, Path):
        engine = OnnxRuntimeEngine(network, inputs, outputs, MAX_BATCH, threads=1)
    else:
        engine = TorchEngine(network, inputs, outputs, MAX_BATCH)
    preprocess, decide = (TorchEngine(module, *specs(card, graph), MAX_BATCH) for graph, module in edges.items())
    return Predictor(preprocess, engine, decide)


def specs(card: Card, graph: Graph) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs, outputs = contract(card, graph)
    return tuple(tensor.spec for tensor in inputs), tuple(tensor.spec for tensor in outputs)
