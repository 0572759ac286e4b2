"""The gated model and the response cache on the real embedded server."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.engines.triton_engine import TritonEngine
from coronanet.model.errors import UsageError
from coronanet.model.phantom import make_phantom
from coronanet.model.tasks import TRIAGE, TaskName
from coronanet.serving.addresses import ANY_PORTS
from coronanet.serving.repository import fill_repository
from coronanet.serving.server import TritonServer
from numpy.typing import NDArray

from .conftest import settled

GATE = 0.5
TASKS: tuple[TaskName, ...] = ("classification", "binary_segmentation", "lung_segmentation")
Executions = Callable[[], dict[str, int]]


@pytest.fixture(scope="module")
def server(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    folder = tmp_path_factory.mktemp("gated")
    fill_repository(
        {task: bundles[task] for task in TASKS},
        folder / "triton_repo",
        choices,
        instances=1,
        response_cache_mib=64,
        triage_threshold=GATE,
    )
    with TritonServer(folder / "triton_repo", ports=ANY_PORTS, log=folder / "log") as running:
        yield running


@pytest.fixture(scope="module")
def whole(server: TritonServer) -> Iterator[TritonEngine]:
    with TritonEngine(server.address) as engine:
        yield engine


@pytest.fixture(scope="module")
def gated(server: TritonServer) -> Iterator[TritonEngine]:
    with TritonEngine(server.address, model=TRIAGE) as engine:
        yield engine


@pytest.fixture
def executions(server: TritonServer) -> Executions:
    def count() -> dict[str, int]:
        with grpc_client.InferenceServerClient(server.address) as client:
            statistics: list[Any] = [client.get_inference_statistics(task) for task in TASKS]
        return {each.model_stats[0].name: int(each.model_stats[0].execution_count) for each in statistics}

    return lambda: settled(count)


@pytest.fixture(scope="module")
def mixed(whole: TritonEngine) -> NDArray[np.int16]:
    """Four slices of the phantom, of which the classifier calls two infected, int16 HU ``[4, H, W]``."""
    image = make_phantom().image
    probability = np.concatenate(
        [whole.infer({"image": image[at : at + 8]})["infected_probability"][:, 0] for at in range(0, len(image), 8)]
    )
    order = np.argsort(probability)
    assert probability[order[1]] < GATE < probability[order[-2]]
    return image[[order[0], order[-1], order[1], order[-2]]]


def _new(image: NDArray[np.int16], seed: int) -> NDArray[np.int16]:
    """The same with other noise, so that no cache has seen it."""
    return image + np.random.default_rng(seed).integers(-2, 3, image.shape, dtype=np.int16)


def test_lesions_are_those_of_infected_slices_and_the_rest_is_as_without_a_gate(
    whole: TritonEngine, gated: TritonEngine, mixed: NDArray[np.int16]
) -> None:
    assert [str(spec) for spec in gated.outputs] == [str(spec) for spec in whole.outputs]
    expected, received = whole.infer({"image": mixed}), gated.infer({"image": mixed})
    infected = expected["infected_probability"][:, 0] >= GATE
    assert infected.tolist() == [False, True, False, True]
    assert expected["lesion_mask"][infected].any()
    expected["lesion_mask"][~infected] = 0
    for name, array in expected.items():
        np.testing.assert_array_equal(received[name], array, err_msg=name)


def test_slices_that_are_not_infected_do_not_reach_the_lesion_networks(
    gated: TritonEngine, mixed: NDArray[np.int16], executions: Executions
) -> None:
    before = executions()
    gated.infer({"image": _new(mixed[::2], 1)})
    middle = executions()
    assert {name: middle[name] - before[name] for name in TASKS} == {
        "classification": 1, "binary_segmentation": 0, "lung_segmentation": 1,
    }  # fmt: skip
    gated.infer({"image": _new(mixed[1::2], 2)})
    after = executions()
    assert after["binary_segmentation"] - middle["binary_segmentation"] == 1


@pytest.mark.parametrize(
    ("output", "runs", "seed"), [("infected_probability", "classification", 3), ("lung_mask", "lung_segmentation", 5)]
)
def test_only_what_is_asked_for_runs(
    server: TritonServer, mixed: NDArray[np.int16], executions: Executions, output: str, runs: str, seed: int
) -> None:
    before = executions()
    with TritonEngine(server.address, model=TRIAGE, outputs=[output]) as engine:
        assert engine.infer({"image": _new(mixed, seed)}).keys() == {output}
    after = executions()
    assert {name: after[name] - before[name] for name in TASKS} == {name: int(name == runs) for name in TASKS}


def test_what_the_ensemble_refuses_reaches_the_client(server: TritonServer) -> None:
    empty = grpc_client.InferInput("image", [1, 0, 64], "INT16")
    empty.set_data_from_numpy(np.zeros((1, 0, 64), np.int16))
    with (
        grpc_client.InferenceServerClient(server.address) as client,
        pytest.raises(grpc_client.InferenceServerException, match=r"expected image int16 \[\?, \?, \?\], got shape"),
    ):
        client.infer(TRIAGE, [empty], client_timeout=60)
    with TritonEngine(server.address, model=TRIAGE) as engine, pytest.raises(UsageError, match="batch of at most 8"):
        engine.infer({"image": np.zeros((9, 64, 64), np.int16)})


def test_a_slice_that_was_seen_is_answered_from_the_cache_whatever_is_asked_for(
    server: TritonServer, whole: TritonEngine, mixed: NDArray[np.int16], executions: Executions
) -> None:
    image = _new(mixed, 4)
    with TritonEngine(server.address, outputs=["lung_mask"]) as engine:
        lungs = engine.infer({"image": image})["lung_mask"]
    before = executions()
    first = whole.infer({"image": image})
    middle = executions()
    second = whole.infer({"image": image})
    assert {name: middle[name] - before[name] for name in TASKS} == {
        "classification": 1, "binary_segmentation": 1, "lung_segmentation": 0,
    }  # fmt: skip
    assert executions() == middle
    np.testing.assert_array_equal(first["lung_mask"], lungs)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], array, err_msg=name)


def test_no_canary_is_answered_from_the_cache(server: TritonServer, executions: Executions) -> None:
    server.check()
    before = executions()
    server.check()
    after = executions()
    # Once for the ensemble, once for the gated model, which segments where the canary is called infected.
    assert {name: after[name] - before[name] for name in TASKS} == dict.fromkeys(TASKS, 2)


def test_the_canary_finds_a_gated_model_that_has_died(server: TritonServer) -> None:
    assert server.examine().verdict == "well"
    dead = [process for process in server.model_processes() if process.model == TRIAGE]
    assert dead
    for process in dead:
        process.kill()
    finding = server.examine()
    assert (finding.verdict, finding.models) == ("sick", (TRIAGE,))
    server.reload((TRIAGE,), 30)
    assert server.examine().verdict == "well"
