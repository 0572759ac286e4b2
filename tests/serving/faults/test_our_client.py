"""Our own client through processes and servers that are killed under it: every slice is answered, in order, as in a
run that nobody disturbed, and whoever uses it notices nothing."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from coronanet.model.phantom import make_phantom
from coronanet.serving.client import AsyncClient, Client, Retry
from coronanet.serving.processes import model_processes

from .conftest import Answer, Image, Record, Served, assert_same, left_by, serving, slices

#: How long the service may be away, on a machine with two cores that are busy, and a request under way.
BACK_S, DEADLINE_S = 30.0, 120.0
KILLS, SLICES = 3, 25
#: Streams the slices that an iterator gives to a server, and appends the answers.
Stream = Callable[[str, Retry, Iterable[Image], list[Answer]], None]


@dataclass(frozen=True)
class Noted(Retry):
    """The client's own pauses, and how many there were."""

    pauses: list[float] = field(default_factory=list)

    def pause_s(self, attempt: int) -> float:
        self.pauses.append(super().pause_s(attempt))
        return self.pauses[-1]


def _sync(address: str, retry: Retry, images: Iterable[Image], answers: list[Answer]) -> None:
    with Client(address, timeout_s=DEADLINE_S, retry=retry) as client:
        answers.extend(client.stream(image[0] for image in images))


def _async(address: str, retry: Retry, images: Iterable[Image], answers: list[Answer]) -> None:
    async def run() -> None:
        async with (
            AsyncClient(address, timeout_s=DEADLINE_S, retry=retry) as client,
            aclosing(client.stream(image[0] for image in images)) as stream,
        ):
            async for answer in stream:
                answers.append(answer)  # noqa: PERF401 - it is looked at meanwhile

    asyncio.run(run())


@dataclass
class Streamed:
    """Slices that are streamed to a server until what is done to it is done."""

    served: Served
    stream: Stream
    answers: list[Answer] = field(default_factory=list)
    retry: Noted = field(default_factory=Noted)
    _sent: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def _images(self) -> Iterator[Image]:
        for image in cycle(slices(SLICES)):
            if self._ended.is_set():
                return
            self._sent += 1
            yield image

    @contextmanager
    def disturbed(self) -> Generator[None]:
        """The stream beside what the block does; its answers are then those of a server that nobody disturbed."""
        expected: list[Answer] = []
        self.stream(self.served.address, Retry(), slices(SLICES), expected)
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(self.stream, self.served.address, self.retry, self._images(), self.answers)
            try:
                self.until_more_answers(running.done)
                yield
                self.until_more_answers(running.done)
            finally:
                self._ended.set()
            running.result()
        assert_same(dict(enumerate(self.answers)), expected, self._sent)

    def until_more_answers(self, failed: Callable[[], bool]) -> None:
        """Every slice once more, or the stream has ended."""
        wanted = len(self.answers) + SLICES
        self.served.until(lambda: failed() or len(self.answers) >= wanted, 300)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stream", [_sync, _async])
def test_it_loses_nothing_when_model_processes_are_killed(
    pair_repository: Path, tmp_path: Path, record_property: Record, stream: Stream
) -> None:
    with serving(pair_repository, tmp_path) as served:
        streamed = Streamed(served, stream)
        with streamed.disturbed():
            for kill in range(KILLS):
                asked_again = len(streamed.retry.pauses)
                served.busiest.kill()
                served.until(lambda kill=kill: len(served.seen("model_back")) > kill, BACK_S)
                assert len(streamed.retry.pauses) > asked_again, "a request met the dead process"
        assert served.seen("restarting", "gave_up") == []
        record_property("figure", _figure(streamed, f"{KILLS} kills"))
    assert left_by(served) == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stream", [_sync, _async])
def test_it_loses_nothing_when_the_server_is_killed(
    pair_repository: Path, tmp_path: Path, record_property: Record, stream: Stream
) -> None:
    with serving(pair_repository, tmp_path) as served:
        streamed = Streamed(served, stream)
        with streamed.disturbed():
            os.kill(served.server, signal.SIGKILL)
            back_s = served.until(lambda: served.seen("restarted"), BACK_S)
            assert streamed.retry.pauses, "a request met the dead server"
        record_property("figure", _figure(streamed, f"server back after {back_s:.1f} s"))
    assert left_by(served) == []


def _figure(streamed: Streamed, what: str) -> str:
    return f"{what} in {len(streamed.answers)} slices; asked again {len(streamed.retry.pauses)} times"


def _begun(address: str) -> int:
    with grpc_client.InferenceServerClient(address) as client:
        told: Any = client.get_inference_statistics("preprocess", client_timeout=10)
    return told.model_stats[0].inference_count


@contextmanager
def _predicting(address: str, volume: Path, out: Path) -> "Generator[subprocess.Popen[str]]":
    """`coronanet predict --server` beside what the block does, and to its end behind it."""
    command = [sys.executable, "-m", "coronanet", "predict", str(volume), "--server", address, "--out", str(out)]
    command += ["--timeout", str(DEADLINE_S), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
            said, error = process.communicate(timeout=200)
        finally:
            process.kill()
    assert process.returncode == 0, error
    assert json.loads(said)["failures"] == []


def _outcome(out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was found, and the masks."""
    report = json.loads((out / "study" / "report.json").read_text())
    names = ("lesion_types", "lesion_mask", "lung_mask")
    masks = {
        name: np.asanyarray(nib.Nifti1Image.from_filename(out / "study" / f"{name}.nii.gz").dataobj) for name in names
    }
    return report["findings"], masks


def _kill(served: Served, victim: str) -> None:
    """The server, or all processes of the model that has worked most."""
    if victim == "server":
        os.kill(served.server, signal.SIGKILL)
        return
    model = served.busiest.model
    for process in model_processes(served.server):
        if process.model == model:
            process.kill()


@pytest.mark.timeout(600)
def test_predict_finishes_a_study_whose_server_is_killed(repository: Path, tmp_path: Path) -> None:
    study = make_phantom(size=128, slices=16)
    volume = tmp_path / "study.nii.gz"
    nib.save(nib.Nifti1Image(study.image.transpose(2, 1, 0), np.asarray(study.affine, np.float64)), volume)
    with serving(repository, tmp_path) as served:
        with _predicting(served.address, volume, tmp_path / "quiet"):
            pass
        for victim, back in (("model", "model_back"), ("server", "restarted")):
            before = _begun(served.address)
            with _predicting(served.address, volume, tmp_path / victim) as predicting:
                served.until(lambda before=before: _begun(served.address) >= before + len(study.image) // 4, 200)
                _kill(served, victim)
                assert predicting.poll() is None, "it cannot be finished without"
                served.until(lambda back=back: served.seen(back), BACK_S)
    expected, right = _outcome(tmp_path / "quiet")
    for victim in ("model", "server"):
        found, masks = _outcome(tmp_path / victim)
        assert found == expected
        for name, mask in masks.items():
            np.testing.assert_array_equal(mask, right[name], err_msg=f"{victim}, {name}")
