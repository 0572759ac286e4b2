"""The real embedded Triton server: what it answers, how it starts, and that nothing is left when it is gone."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice, LocalEnsemble
from coronanet.engines.slices import GateSlices
from coronanet.engines.triton_engine import TritonEngine
from coronanet.model.errors import RefusedError, UsageError
from coronanet.model.phantom import make_phantom
from coronanet.model.tasks import TASKS, TaskName
from coronanet.serving import server as server_module
from coronanet.serving.addresses import ANY_PORT, ANY_PORTS, Ports
from coronanet.serving.canary import Canary
from coronanet.serving.linter.filled import RepositoryIndex
from coronanet.serving.server import TritonServer, last_error
from coronanet.serving.snapshot import take_snapshot
from coronanet.serving.time_slice import LONGEST_NS
from numpy.typing import NDArray

from .conftest import needs_schedstat, needs_time_slices, settled, time_slice_ns

OUTPUTS = {task.output for task in TASKS.values()}


@pytest.fixture(scope="module")
def local(bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice]) -> Iterator[LocalEnsemble]:
    with LocalEnsemble(bundles, choices) as ensemble:
        yield ensemble


@pytest.fixture(scope="module")
def served(triton_server: TritonServer) -> Iterator[TritonEngine]:
    with TritonEngine(triton_server.address) as engine:
        yield engine


def _assert_equal(local: LocalEnsemble, served: TritonEngine, image: NDArray[np.int16]) -> bool:
    """Both decide the same; whether any mask has something in it."""
    expected, received = local.infer({"image": image}), served.infer({"image": image})
    assert received.keys() == expected.keys()
    for name, array in expected.items():
        assert received[name].dtype == array.dtype
        np.testing.assert_allclose(received[name], array, atol=1e-6 if array.dtype == np.float32 else 0, err_msg=name)
    return any(array.any() for array in received.values() if array.dtype == np.uint8)


def _group(leader: int) -> list[int]:
    """The living processes of a server: itself and its models."""
    listed = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return [int(pid) for pid, group, state in rows if int(group) == leader and not state.startswith("Z")]


def _busiest_thread(pid: int) -> str:
    """The thread of a process that has computed for longest, as ``PID/task/TID``."""
    threads = [f"{pid}/task/{thread}" for thread in os.listdir(f"/proc/{pid}/task")]
    return max(threads, key=lambda thread: int(Path(f"/proc/{thread}/schedstat").read_text().split()[0]))


def _shared_memory(prefix: str) -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith(prefix)]


def _eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_it_declares_the_ensemble_of_the_contract(served: TritonEngine) -> None:
    assert [str(spec) for spec in served.inputs] == ["image int16 [?, ?, ?]"]
    assert [str(spec) for spec in served.outputs] == [
        "infected_probability float32 [?, 1]",
        "lesion_mask uint8 [?, ?, ?]",
        "lesion_types uint8 [?, ?, ?]",
        "lung_mask uint8 [?, ?, ?]",
    ]
    assert served.max_batch == 8


def test_it_decides_what_the_local_ensemble_decides_on_the_phantom(local: LocalEnsemble, served: TritonEngine) -> None:
    image = make_phantom(slices=10).image
    seen = [_assert_equal(local, served, image[start : start + 8]) for start in range(0, len(image), 8)]
    assert any(seen)


def test_it_decides_what_the_local_ensemble_decides_on_real_slices(
    local: LocalEnsemble, served: TritonEngine, real_slices: GateSlices
) -> None:
    seen = [_assert_equal(local, served, image[None]) for image in real_slices.images[::3]]
    assert any(seen)


def test_any_grid_and_the_largest_batch(local: LocalEnsemble, served: TritonEngine) -> None:
    rng = np.random.default_rng(0)
    for shape in ((1, 64, 65), (3, 301, 177), (8, 512, 512), (1, 1024, 768)):
        _assert_equal(local, served, rng.integers(-1024, 1024, shape, dtype=np.int16))


def test_concurrent_requests_get_their_own_answers(local: LocalEnsemble, triton_server: TritonServer) -> None:
    image = make_phantom().image[::3]
    expected = [local.infer({"image": slice_[None]})["lung_mask"] for slice_ in image]

    def ask(slice_: NDArray[np.int16]) -> NDArray[np.uint8]:
        with TritonEngine(triton_server.address, outputs=["lung_mask"]) as engine:
            return engine.infer({"image": slice_[None]})["lung_mask"]

    with ThreadPoolExecutor(4) as pool:
        for answer, wanted in zip(pool.map(ask, image), expected, strict=True):
            np.testing.assert_array_equal(answer, wanted)


def test_only_the_steps_of_the_outputs_asked_for_run(triton_server: TritonServer) -> None:
    def runs() -> dict[str, int]:
        with grpc_client.InferenceServerClient(triton_server.address) as client:
            statistics: Any = client.get_inference_statistics()
        return {each.name: int(each.execution_count) for each in statistics.model_stats if each.name in TASKS}

    before = settled(runs)
    with TritonEngine(triton_server.address, outputs=["lung_mask"]) as engine:
        assert engine.infer({"image": make_phantom().image[:1]}).keys() == {"lung_mask"}
    after = settled(runs)
    assert {name: after[name] - before[name] for name in TASKS} == {**dict.fromkeys(TASKS, 0), "lung_segmentation": 1}


@needs_schedstat
def test_a_process_that_waits_for_requests_has_turns_at_a_processor(triton_server: TritonServer) -> None:
    """By which the watchdog tells it from one that hangs."""
    before = {process: process.worked_ns or 0 for process in triton_server.model_processes()}
    assert len(before) > len(TASKS)
    assert _eventually(lambda: all((process.worked_ns or 0) > worked_ns for process, worked_ns in before.items()))


@needs_time_slices
def test_what_segments_computes_for_longer_at_a_time_than_what_is_soon_done(triton_server: TritonServer) -> None:
    with TritonEngine(triton_server.address) as engine:
        engine.infer({"image": make_phantom().image[:1]})
    computed = {process: _busiest_thread(process.pid) for process in triton_server.model_processes()}
    assert {process.model for process in computed} > TASKS.keys()
    long = {process.model for process, thread in computed.items() if time_slice_ns(thread) == LONGEST_NS}
    assert long == {name for name, task in TASKS.items() if task.is_segmentation}


def test_a_model_that_it_does_not_have(triton_server: TritonServer) -> None:
    with pytest.raises(UsageError, match="refused nonesuch: Request for unknown model: 'nonesuch' is not found"):
        TritonEngine(triton_server.address, model="nonesuch")


def test_the_http_port_is_not_the_grpc_port(triton_server: TritonServer) -> None:
    with pytest.raises(UsageError, match="is not gRPC: give the gRPC port"):
        TritonEngine(triton_server.http_address)


def test_plain_grpc_client(triton_server: TritonServer) -> None:
    image = make_phantom().image[:2]
    tensor = grpc_client.InferInput("image", list(image.shape), "INT16")
    tensor.set_data_from_numpy(image)
    with grpc_client.InferenceServerClient(triton_server.address) as client:
        assert client.is_server_ready()
        assert client.is_model_ready("coronanet")
        result: Any = client.infer("coronanet", [tensor], client_timeout=60)
    assert {output.name for output in result.get_response().outputs} == OUTPUTS
    assert result.as_numpy("infected_probability").shape == (2, 1)
    assert result.as_numpy("lesion_types").shape == image.shape
    assert result.as_numpy("lesion_types").max() < 4


def test_plain_http_client(triton_server: TritonServer) -> None:
    image = make_phantom().image[:1]
    tensor = http_client.InferInput("image", list(image.shape), "INT16")
    tensor.set_data_from_numpy(image)
    with http_client.InferenceServerClient(triton_server.http_address, network_timeout=60) as client:
        result = client.infer("coronanet", [tensor])
    lung_mask = result.as_numpy("lung_mask")
    assert lung_mask is not None
    assert lung_mask.shape == image.shape
    assert set(np.unique(lung_mask)) <= {0, 1}


def test_a_wrong_request_is_refused_and_the_server_lives(triton_server: TritonServer) -> None:
    flat = grpc_client.InferInput("image", [1, 64], "INT16")
    flat.set_data_from_numpy(np.zeros((1, 64), np.int16))
    with (
        grpc_client.InferenceServerClient(triton_server.address) as client,
        pytest.raises(grpc_client.InferenceServerException, match="shape"),
    ):
        client.infer("coronanet", [flat], client_timeout=60)
    triton_server.check()


def test_a_refusal_of_a_step_reaches_the_client_as_one_line(triton_server: TritonServer) -> None:
    pixels = grpc_client.InferInput("pixels", [1, 1, 384, 384], "FP32")
    pixels.set_data_from_numpy(np.zeros((1, 1, 384, 384), np.float32))
    empty = grpc_client.InferInput("image", [1, 0, 64], "INT16")
    empty.set_data_from_numpy(np.zeros((1, 0, 64), np.int16))
    with grpc_client.InferenceServerClient(triton_server.address) as client:
        client.infer("lung_segmentation", [pixels], client_timeout=60)
        with pytest.raises(
            grpc_client.InferenceServerException, match=r"expected image int16 \[\?, \?, \?\], got shape"
        ):
            client.infer("coronanet", [empty], client_timeout=60)
    triton_server.check()


def test_stop_leaves_no_process_and_no_memory(small_repository: Path, tmp_path: Path) -> None:
    server = TritonServer(small_repository, ports=ANY_PORTS, log=tmp_path / "log")
    with server:
        leader = server.pid
        assert leader is not None
        assert len(_group(leader)) == 4  # the server, preprocess, classification, decide
        assert _shared_memory(server.prefix)
        server.check()
    assert _group(leader) == []
    assert _shared_memory(server.prefix) == []
    with pytest.raises(RefusedError, match="not running"):
        server.check()


def test_a_server_that_hangs_is_killed_soon_when_it_is_to_stop_at_once(small_repository: Path, tmp_path: Path) -> None:
    with TritonServer(small_repository, ports=ANY_PORTS, log=tmp_path / "log", exit_timeout_s=60) as server:
        leader = server.pid
        assert leader is not None
        os.kill(leader, signal.SIGSTOP)
        started = time.monotonic()
        server.stop(at_once=True)
        assert time.monotonic() - started < 40, "not the exit timeout"
    assert _group(leader) == []
    assert _shared_memory(server.prefix) == []


def test_a_chosen_port_that_was_taken_meanwhile_is_chosen_anew_and_one_that_was_named_is_not(tmp_path: Path) -> None:
    grpc = Ports.free().grpc
    server = TritonServer(tmp_path, ports=Ports(http=ANY_PORT, grpc=grpc, metrics=ANY_PORT), log=tmp_path / "log")
    server.check_machine()
    chosen = server.ports
    server.check_machine()
    assert server.ports == chosen
    with socket.create_server((server.host, chosen.http)):
        server.check_machine()
        assert server.ports.http != chosen.http
        assert server.ports.grpc == grpc
    with (
        socket.create_server((server.host, grpc)),
        pytest.raises(UsageError, match=rf"port {grpc} on 127\.0\.0\.1 cannot be used .*--grpc-port"),
    ):
        server.check_machine()


def test_a_killed_server_is_noticed_and_cleaned_up(small_repository: Path, tmp_path: Path) -> None:
    with TritonServer(small_repository, ports=ANY_PORTS, log=tmp_path / "log") as server:
        leader = server.pid
        assert leader is not None
        os.kill(leader, signal.SIGKILL)
        assert _eventually(lambda: leader not in _group(leader))
        with pytest.raises(RefusedError, match=r"it ended with exit code -9.*its log: "):
            server.check()
    assert _group(leader) == []
    assert _shared_memory(server.prefix) == []


def test_a_model_is_known_to_be_loaded_again_though_the_disk_under_the_log_is_full(small_repository: Path) -> None:
    with TritonServer(small_repository, ports=ANY_PORTS, log=Path("/dev/full")) as server:
        assert Counter(process.model for process in server.model_processes()) == server.instances
        before = {process.pid for process in server.model_processes()}
        server.reload(("classification",), 100)
        after = {process.pid: process.model for process in server.model_processes() if process.pid not in before}
        assert set(after.values()) == {"classification"}
        server.check()


def test_a_killed_model_process_is_noticed(small_repository: Path, tmp_path: Path) -> None:
    with TritonServer(small_repository, ports=ANY_PORTS, log=tmp_path / "log") as server:
        leader = server.pid
        assert leader is not None
        for model in _group(leader):
            if model != leader:
                os.kill(model, signal.SIGKILL)
        with pytest.raises(RefusedError, match="fails its canary inference"):
            server.check()


def test_the_server_ends_with_a_parent_that_is_killed(small_repository: Path, tmp_path: Path) -> None:
    ports = Ports.free()
    script = (
        "import sys, time; from pathlib import Path\n"
        "from coronanet.serving.addresses import Ports; from coronanet.serving.server import TritonServer\n"
        f"log = Path({str(tmp_path / 'log')!r})\n"
        f"server = TritonServer(Path({str(small_repository)!r}), ports={ports!r}, log=log)\n"
        "server.start(); print(server.pid, server.prefix, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        leader, prefix = parent.stdout.readline().split()
        assert _group(int(leader))
        parent.kill()
        parent.wait()
        assert _eventually(lambda: _group(int(leader)) == [])
    assert _shared_memory(prefix) == []


def test_an_answer_that_is_not_right_is_never_ready(
    small_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Canary.of(small_repository)
    probability = 1 - right.tensors["infected_probability"].round()
    other = Canary(right.steps, {**right.tensors, "infected_probability": probability})
    monkeypatch.setattr(Canary, "of", lambda _: other)
    server = TritonServer(small_repository, ports=ANY_PORTS, log=tmp_path / "log")
    with pytest.raises(RefusedError, match=r"answers wrongly: infected_probability is wrong: its values are .* off"):
        server.start()
    assert server.pid is None
    assert _shared_memory(server.prefix) == []


@pytest.mark.parametrize("name", ["http", "grpc", "metrics"])
def test_a_port_in_use_is_named_with_its_option(small_repository: Path, tmp_path: Path, name: str) -> None:
    ports = Ports.free()
    with socket.create_server(("127.0.0.1", getattr(ports, name))):
        server = TritonServer(small_repository, ports=ports, log=tmp_path / "log")
        with pytest.raises(UsageError, match=rf"port {getattr(ports, name)} .*--{name}-port"):
            server.start()
    assert server.pid is None


def test_a_repository_that_is_not_filled_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="coronanet repository"):
        TritonServer(tmp_path, ports=ANY_PORTS, log=tmp_path / "log").start()


def test_a_start_that_fails_says_why_in_one_line(
    small_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(repository: Path, index: RepositoryIndex, run: Path) -> Path:
        snapshot = take_snapshot(repository, index, run)
        for network in snapshot.glob("classification/1/*.onnx"):
            network.write_bytes(b"not a network")
        return snapshot

    monkeypatch.setattr(server_module, "take_snapshot", damaged)
    server = TritonServer(small_repository, ports=ANY_PORTS, log=tmp_path / "log")
    with pytest.raises(RefusedError) as refused:
        server.start()
    message = str(refused.value)
    assert "its hash is not the bundle's" in message
    assert "\n" not in message
    assert "TritonModelException" not in message
    assert _shared_memory(server.prefix) == []


def test_the_reason_in_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_error(log) == "it said nothing"
    log.write_text("tritonserver: unrecognized option\nUsage\n")
    assert last_error(log) == "tritonserver: unrecognized option"
    log.write_text(
        'E1123 09:54:40.386941 13685 server.cc:241] "CudaDriverHelper has not been initialized."\n'
        'E1123 09:54:43.453174 13685 backend_model.cc:692] "ERROR: Failed to create instance: '
        'TritonModelException: no step\\n\\nAt:\\n  model.py(22): initialize\\n"\n'
    )
    assert last_error(log) == "no step"


def test_the_working_folder_is_never_imported_from(
    small_repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy", "onnxruntime", "http", "coronanet"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('from the working folder')")
    monkeypatch.chdir(tmp_path)
    with TritonServer(small_repository, ports=ANY_PORTS, log=tmp_path / "log") as server:
        server.check()
