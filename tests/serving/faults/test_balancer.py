"""Two servers behind the balancer of docs/scaling.md: both work, one that dies is left out, and nothing is lost."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as grpc_client
from coronanet.serving.addresses import Ports
from coronanet.serving.client import Client
from tritonclient.utils import InferenceServerException

from .conftest import Load, Record, Served, ask, assert_same, serving, slices

PAGE = Path(__file__).resolve().parents[3] / "docs" / "scaling.md"
BALANCER, ONE, TWO = "127.0.0.1:9001", ("127.0.0.1:8001", "8003"), ("127.0.0.1:8011", "8013")
#: How long a server may be away, and then how long until the balancer trusts it again.
SERVER_BACK_S, CHECKED_S = 30.0, 30.0
pytestmark = pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")


@contextmanager
def _balanced(folder: Path, *servers: Served) -> Generator[str]:
    """The address of an HAProxy before two servers, with the configuration of the page, until the block ends."""
    (text,) = re.findall(r"^```\n(defaults\n.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    address = f"127.0.0.1:{Ports.free().grpc}"
    replaced = {f"bind {BALANCER} ": f"bind {address} "}
    for (grpc, health), served in zip((ONE, TWO), servers, strict=True):
        replaced[f" {grpc} "] = f" {served.address} "
        replaced[f" port {health} "] = f" port {served.ready['health'].rpartition(':')[2]} "
    for there, here in replaced.items():
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    with subprocess.Popen(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]) as process:
        try:
            _until_it_answers(address)
            yield address
        finally:
            process.terminate()


def _until_it_answers(address: str, seconds: float = 20) -> None:
    """Its first checks of the servers take a moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            ask(address, slices(1)[0])
            return
        except InferenceServerException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _answered(served: Served) -> int:
    with grpc_client.InferenceServerClient(served.address) as client:
        statistics: Any = client.get_inference_statistics("coronanet")
    return int(statistics.model_stats[0].inference_stats.success.count)


def test_both_servers_work_and_one_that_is_killed_is_left_out_until_it_is_back(
    pair_repository: Path, tmp_path: Path, record_property: Record
) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    with (
        serving(pair_repository, folders[0]) as one,
        serving(pair_repository, folders[1]) as two,
        _balanced(tmp_path, one, two) as address,
    ):
        images = slices(100)
        expected = [ask(two.address, image) for image in images[:25]]
        before = _answered(one), _answered(two)
        # One connection: a balancer of connections would send all of it to one server.
        with Client(address, concurrency=4) as client:
            answers = dict(enumerate(client.stream(image[0] for image in images)))
        shares = _answered(one) - before[0], _answered(two) - before[1]
        # What a canary adds to a share is a request or two.
        assert min(shares) > 20, shares
        assert_same(answers, [{name: array[0] for name, array in each.items()} for each in expected], 100)

        disturbed = Load(address, images, concurrency=4)
        with disturbed.running():
            one.until(lambda: len(disturbed.answers) > 10, 60)
            os.kill(one.server, signal.SIGKILL)
            one.until(lambda: one.seen("restarted"), SERVER_BACK_S)
        assert_same(disturbed.answers, expected, 100)
        since = _answered(one)
        one.until(lambda: ask(address, images[0]) and _answered(one) > since + 8, CHECKED_S)
        record_property(
            "figure",
            f"{shares[0]} and {shares[1]} of 100 slices; one killed: {disturbed.failures} requests were asked again, "
            f"the longest wait of a slice {disturbed.longest_s:.1f} s",
        )
