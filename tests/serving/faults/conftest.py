"""`coronanet serve` as it runs overnight, and clients that put load on it and look at every answer."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.model.phantom import make_phantom
from coronanet.model.tasks import TaskName
from coronanet.serving.leftovers import runs_home
from coronanet.serving.processes import ModelProcess, model_processes
from coronanet.serving.repository import fill_repository
from numpy.typing import NDArray

Image = NDArray[np.int16]
Answer = dict[str, NDArray[Any]]
#: pytest's ``record_property``: ``--junitxml=FILE -o junit_family=xunit1`` writes the figures of docs/reliability.md.
Record = Callable[[str, object], None]
#: gRPC counts a channel's failed attempts to connect in a pool of all channels, and lets the next ones wait.
CHANNEL = [("grpc.use_local_subchannel_pool", 1)]
#: How long one attempt may take.
ATTEMPT_S = 30.0


@dataclass(frozen=True)
class Served:
    """A running `coronanet serve`, and what it said when it was ready."""

    process: "subprocess.Popen[str]"
    ready: Mapping[str, Any]

    @property
    def address(self) -> str:
        return self.ready["grpc"]

    @property
    def events(self) -> list[dict[str, Any]]:
        text = Path(self.ready["events"]).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def seen(self, *names: str) -> list[dict[str, Any]]:
        """The events with one of these names."""
        return [event for event in self.events if event["event"] in names]

    @property
    def server(self) -> int:
        """The process number of the Triton that runs now."""
        children = subprocess.run(
            ["ps", "-o", "pid=,comm=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=True
        )
        return next(int(line.split()[0]) for line in children.stdout.splitlines() if line.endswith("tritonserver"))

    @property
    def busiest(self) -> ModelProcess:
        """A process of the model that has worked most; the newest, since old ones may only finish what they have."""
        processes = model_processes(self.server)
        model = max(processes, key=lambda process: process.cpu_s or 0).model
        return max((process for process in processes if process.model == model), key=_started)

    def until(self, condition: Callable[[], object], seconds: float, every_s: float = 0.05) -> float:
        """How long it took until a condition held, in seconds; it is looked at every ``every_s`` seconds."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() < started + seconds, (self.process.poll(), self.events)
            time.sleep(every_s)
        return time.monotonic() - started


def _started(process: ModelProcess) -> int:
    """When a process started, in ticks; -1 once it is gone. Its number tells nothing: those begin anew at pid_max."""
    try:
        stat = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return int(stat.rpartition(")")[2].split()[19])


def reload_with(served: Served, statement: str, seconds: float) -> None:
    """Have the classification loaded anew with code that runs a statement before each inference, and the old gone."""
    (run,) = runs_home().glob(f"coronanet-{served.process.pid}-*")
    code = run / "models" / "classification" / "1" / "model.py"
    right, call = code.read_text(), "            answer = self.engine.infer(feeds)"
    assert call in right
    before = {process.pid for process in model_processes(served.server)}
    code.write_text(right.replace(call, f"            {statement}\n{call}"))
    served.until(lambda: len({each.pid for each in model_processes(served.server)} - before) == 2, seconds)
    served.until(lambda: len(model_processes(served.server)) == len(before), seconds)


def ask(address: str, image: Image, timeout_s: float = 30, outputs: tuple[str, ...] | None = None) -> Answer:
    """One request with a client that is not ours.

    Raises:
        InferenceServerException: it was not answered.
    """
    tensor = grpc_client.InferInput("image", list(image.shape), "INT16")
    tensor.set_data_from_numpy(image)
    wanted = None if outputs is None else [grpc_client.InferRequestedOutput(name) for name in outputs]
    with grpc_client.InferenceServerClient(address, channel_args=CHANNEL) as client:
        result: Any = client.infer("coronanet", [tensor], outputs=wanted, client_timeout=timeout_s)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def ask_again(address: str, image: Image, deadline_s: float) -> tuple[Answer, int]:
    """Ask until there is an answer, and how often it was asked in vain before.

    Raises:
        InferenceServerException: there was none within ``deadline_s`` seconds.
    """
    deadline = time.monotonic() + deadline_s
    failures = 0
    while True:
        try:
            return ask(address, image, min(ATTEMPT_S, max(1.0, deadline - time.monotonic()))), failures
        except grpc_client.InferenceServerException:
            failures += 1
            if time.monotonic() > deadline:
                raise
            time.sleep(min(0.1 * 2**failures, 1.0))


def http(address: str, data: bytes, seconds: float = 10) -> bytes:
    """What an HTTP server says to raw bytes before it, or we, hang up."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(data)
        with suppress(OSError):  # it may have hung up before it had everything
            connection.shutdown(socket.SHUT_WR)
        said = b""
        while part := connection.recv(65536):
            said += part
    return said


def post(body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A request for an inference, with a length that may be a lie."""
    lines = ["POST /v2/models/coronanet/infer HTTP/1.1", "Host: x", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body) if length is None else length}", "", ""]).encode() + body


@dataclass
class Load:
    """Streams that ask for slices, each again until it is answered, until they are stopped or there are no more."""

    address: str
    images: list[Image]
    concurrency: int
    deadline_s: float = 120
    answers: dict[int, Answer] = field(default_factory=dict)
    failures: int = 0
    longest_s: float = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Ask for every image.

        Raises:
            InferenceServerException: one was not answered in time.
        """
        lock = threading.Lock()

        def one(number: int) -> None:
            if self._stop.is_set():
                return
            started = time.monotonic()
            answer, failures = ask_again(self.address, self.images[number], self.deadline_s)
            with lock:
                self.answers[number] = answer
                self.failures += failures
                self.longest_s = max(self.longest_s, time.monotonic() - started)

        with ThreadPoolExecutor(self.concurrency) as pool:
            for _ in pool.map(one, range(len(self.images))):
                pass

    def stop(self) -> None:
        """Ask for no more images than are under way."""
        self._stop.set()

    @contextmanager
    def running(self) -> Generator[None]:
        """Load beside what the block does, and to its end behind it."""
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.run)
            try:
                yield
            except BaseException:
                self.stop()
                raise
            running.result()


@cache
def _phantom(size: int, count: int) -> Image:
    return make_phantom(size=size, slices=count).image


def slices(count: int, size: int = 128, different: int = 25) -> list[Image]:
    """Slices of the phantom, each [1, H, W]; every ``different`` of them they come again."""
    image = _phantom(size, different)
    return [image[number % different : number % different + 1] for number in range(count)]


def assert_same(answers: dict[int, Answer], expected: list[Answer], count: int) -> None:
    """Every slice has an answer, and what is ``expected`` comes again and again."""
    assert sorted(answers) == list(range(count)), "every slice has an answer"
    for number, answer in answers.items():
        wanted = expected[number % len(expected)]
        assert answer.keys() == wanted.keys()
        for name, array in answer.items():
            np.testing.assert_array_equal(array, wanted[name], err_msg=f"slice {number}, {name}")


@contextmanager
def serving(repository: Path, folder: Path, *options: str) -> Generator[Served]:
    """`coronanet serve --json` on free ports until the block ends, by SIGTERM if the test did not end it itself."""
    ports = [part for name in ("http", "grpc", "metrics") for part in (f"--{name}-port", "0")]
    command = [sys.executable, "-m", "coronanet", "serve", "--json", "--repository", str(repository), *ports]
    command += ["--log", str(folder / "triton.log"), *options]
    with (
        (folder / "stderr").open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            lines: list[str] = []
            for line in process.stdout:
                lines.append(line)
                if line.startswith("}"):
                    break
            yield Served(process, json.loads("".join(lines)))
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(30)
                finally:
                    process.kill()


def left_by(served: Served) -> list[str]:
    """The shared memory that a server left."""
    return [name for name in os.listdir("/dev/shm") if name.startswith(f"coronanet-{served.process.pid}-")]


@pytest.fixture(scope="session")
def pair_repository(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository with the classification alone, in two processes: when one is dead, the other still answers."""
    folder = tmp_path_factory.mktemp("pair") / "triton_repo"
    fill_repository({"classification": bundles["classification"]}, folder, choices, instances=2)
    return folder


@pytest.fixture(scope="module")
def served(pair_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for a whole module: it is there to survive every test in it."""
    with serving(pair_repository, tmp_path_factory.mktemp("served")) as running:
        yield running
