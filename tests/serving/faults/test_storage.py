"""Disks that are full, files that were changed, and a repository that is filled again under a running server."""

import os
import resource
import shutil
import signal
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from coronanet import cli
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.engines.triton_engine import TritonEngine
from coronanet.model.phantom import make_phantom
from coronanet.model.study import Study
from coronanet.model.tasks import TaskName
from coronanet.serving.leftovers import runs_home
from coronanet.serving.predict import predict_studies
from coronanet.serving.processes import model_processes
from coronanet.serving.provenance import served_models
from coronanet.serving.repository import fill_repository
from coronanet.serving.server import TritonServer

from .conftest import Record, ask, ask_again, reload_with, serving, slices

BACK_S = 40.0
SERVE = ["serve", "--http-port=0", "--grpc-port=0", "--metrics-port=0", "--repository"]


@contextmanager
def _no_file_beyond(size: int) -> Generator[None]:
    """No file can grow beyond so many bytes: a write fails as it does where the disk, or a quota, is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_costs_the_study_that_does_not_fit_and_no_other(
    triton_server: TritonServer, tmp_path: Path
) -> None:
    small = replace(make_phantom(size=64, slices=4), name="small")
    noise = np.random.default_rng(0).integers(-1000, 400, (4, 512, 512), dtype=np.int16)
    large = replace(make_phantom(size=512, slices=4), name="large", image=noise)

    def predict(folder: Path, *studies: Study) -> tuple[list[str], list[str]]:
        with TritonEngine(triton_server.address) as engine:
            outcome = predict_studies(engine, studies, folder, models=served_models(engine))
        return [result.folder.name for result in outcome.results], [each.reason for each in outcome.failures]

    assert predict(tmp_path / "first", small) == (["small"], [])
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "first" / "small").iterdir()}
    with _no_file_beyond(max(sizes.values()) + 4096):
        finished, reasons = predict(tmp_path / "full", small, large)
    assert finished == ["small"]
    assert len(reasons) == 1
    assert "File too large" in reasons[0]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["small"], "nothing half-written"
    assert {path.name for path in (tmp_path / "full" / "small").iterdir()} == sizes.keys()
    assert predict(tmp_path / "full", large) == (["large"], []), "and with room again it goes on"


def test_a_file_that_is_corrupted_under_a_running_server_ends_only_the_next_start(
    pair_repository: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "triton_repo"
    shutil.copytree(pair_repository, repository)
    with serving(repository, tmp_path) as served:
        expected = ask(served.address, slices(1)[0])
        for file in (repository / "classification" / "1").glob("*.onnx"):
            with file.open("r+b") as stream:
                stream.write(b"corrupted")
        served.busiest.kill()
        served.until(lambda: served.seen("model_back"), BACK_S)
        assert ask(served.address, slices(1)[0]) == expected, "a process is brought back from the server's own copy"
        os.kill(served.server, signal.SIGKILL)
        assert served.process.wait(BACK_S) == 1
        said = (tmp_path / "stderr").read_text()
        assert "onnx is missing or was changed" in said
        assert "fill the repository again with `coronanet repository`" in said
        assert [event["event"] for event in served.events][-3:] == ["failed", "stopping", "stopped"]


@pytest.mark.parametrize("name", ["classification/1/sm90-trt11.1-fp32.plan", "classification/2", "theirs"])
@pytest.mark.parametrize("command", [["repository", "--check"], ["serve", "--container", "--repository"], SERVE])
def test_a_corrupted_plan_or_an_added_model_is_refused_by_name_before_anything_starts(
    planned_repository: Path, tmp_path: Path, command: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = shutil.copytree(planned_repository, tmp_path / "triton_repo")
    if name.endswith(".plan"):
        data = bytearray((repository / name).read_bytes())
        data[-1] ^= 1
        (repository / name).write_bytes(data)
    else:
        shutil.copytree(repository / "classification", repository / name)
    with pytest.raises(SystemExit) as stopped:
        cli.main([*command, str(repository)])
    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert (f"{name} is missing or" if name.endswith(".plan") else f"{name} was not put") in said.err.replace(": ", " ")
    assert said.out == ""


def test_a_repository_that_is_filled_again_changes_nothing_until_the_next_start(
    pair_repository: Path, bundles: dict[TaskName, Bundle], tmp_path: Path
) -> None:
    repository = tmp_path / "triton_repo"
    shutil.copytree(pair_repository, repository)
    with serving(repository, tmp_path) as served:
        before = model_processes(served.server)
        expected = ask(served.address, slices(1)[0])
        other: dict[TaskName, Choice] = {"classification": Choice("onnxruntime", "fp32", threads=1)}
        fill_repository({"classification": bundles["classification"]}, repository, other, instances=1)
        for _ in range(30):
            assert ask(served.address, slices(1)[0]) == expected
        assert model_processes(served.server) == before
        # Also where a process has to be brought back.
        served.busiest.kill()
        served.until(lambda: served.seen("model_back"), BACK_S)
        assert ask(served.address, slices(1)[0]) == expected


def test_a_wrong_answer_is_noticed_and_the_server_restarted(
    pair_repository: Path, tmp_path: Path, record_property: Record
) -> None:
    with serving(pair_repository, tmp_path) as served:
        expected = ask(served.address, slices(1)[0])
        (run,) = runs_home().glob(f"coronanet-{served.process.pid}-*")
        code = run / "models" / "classification" / "1" / "model.py"
        right = code.read_text()
        # What numpy 2 does to the tensors of a model process.
        zeros = right.replace("pb_utils.Tensor(name, array)", "pb_utils.Tensor(name, array * 0)")
        assert zeros != right
        code.write_text(zeros)
        back_s = served.until(lambda: served.seen("restarted"), BACK_S)
        record_property("figure", f"restarted after {back_s:.1f} s")
        assert "logits_classification is wrong" in served.seen("sick")[0]["reason"]
        assert ask(served.address, slices(1)[0]) == expected


@pytest.mark.slow
@pytest.mark.long  # the watchdog waits for three quarters of a minute; what it goes by is in test_examination
def test_a_model_that_hangs_under_load_is_brought_back(pair_repository: Path, tmp_path: Path) -> None:
    hang = tmp_path / "hang"
    with serving(pair_repository, tmp_path) as served, ThreadPoolExecutor(4) as pool:
        expected = ask(served.address, slices(1)[0])
        reload_with(served, f"while Path({str(hang)!r}).exists(): __import__('time').sleep(0.1)", BACK_S)
        hang.touch()
        # What waits for it is rejected again and again, which Triton counts as requests that it failed.
        asking = [pool.submit(ask_again, served.address, slices(1)[0], 300) for _ in range(8)]
        try:
            served.until(lambda: served.seen("sick", "restarting"), 200)
        finally:
            hang.unlink()
        served.until(lambda: served.seen("model_back", "restarting"), BACK_S)
        (sick,) = served.seen("sick")
        assert sick["models"] == ["classification"]
        assert "answered no request in 30 s" in sick["reason"]
        assert served.seen("restarting") == []
        assert all(each.result()[0] == expected for each in asking)
