"""The driver of NVIDIA's program, against one that writes what the real one writes."""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from coronanet.benchmarks.perf_analyzer import PerfAnalyzer, find_perf_analyzer
from coronanet.model.errors import UsageError

FAKE = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
if arguments == ["--version"]:
    sys.exit(0)
given = dict(zip(arguments[::2], arguments[1::2]))
if given["-m"] == "missing":
    sys.exit("noise\\nerror: the model is not there\\nUsage: all of the help")
if os.path.exists(given["--profile-export-file"]):
    sys.exit("Error: Failed to parse --profile-export-file. Path must not already exist.")
count = int(given["--request-count"])
requests = [
    {{"timestamp": 1000 * place, "request_inputs": {{}}, "response_timestamps": [1000 * place + 400]}}
    for place in range(count)
]
requests[-1]["response_timestamps"] = []
open(given["--profile-export-file"], "w").write(
    json.dumps({{"experiments": [{{"experiment": {{"mode": "concurrency"}}, "requests": requests}}], "version": "1.0"}})
)
open({seen!r}, "w").write(json.dumps([given, json.load(open(given["--input-data"]))]))
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "perf_analyzer"
    path.write_text(FAKE.format(python=sys.executable, seen=str(tmp_path / "seen.json")), encoding="utf-8")
    path.chmod(0o755)
    return path


def test_it_sends_what_our_own_client_sends_and_reads_every_request(program: Path, tmp_path: Path) -> None:
    image = np.arange(2 * 4 * 4, dtype=np.int16).reshape(2, 4, 4)
    with PerfAnalyzer(find_perf_analyzer(program), "127.0.0.1:1", "coronanet", 2, {"image": image}) as source:
        source.run(3, limit_s=5)
        block = source.run(10, limit_s=5)
    # One request of each of the two streams is not counted, and one was never answered.
    assert block.latencies_ns == (400,) * 9
    assert block.errors == ("no response",)
    assert block.wall_ns == 8 * 1000 + 400
    given, data = json.loads((tmp_path / "seen.json").read_text())
    assert (given["-b"], given["--concurrency-range"], given["--request-count"]) == ("2", "2", "12")
    assert given["--shape"] == "image:4,4"
    sent = [np.frombuffer(base64.b64decode(each["image"]["content"]["b64"]), np.int16) for each in data["data"]]
    assert np.array_equal(np.concatenate(sent).reshape(image.shape), image)


def test_its_own_error_is_passed_on_in_one_line(program: Path) -> None:
    with (
        PerfAnalyzer(program, "127.0.0.1:1", "missing", 1, {"image": np.zeros((1, 2, 2), np.int16)}) as source,
        pytest.raises(UsageError, match="perf_analyzer failed: error: the model is not there"),
    ):
        source.run(1, limit_s=5)


def test_without_the_program_it_is_said_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for given in (None, tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match=r"expected NVIDIA's program on PATH .*tritonclient==2.51.0"):
            find_perf_analyzer(given)


def test_a_program_that_does_not_start_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "perf_analyzer"
    broken.write_text("#!/bin/sh\necho 'libb64.so.0d: cannot open shared object file' >&2\nexit 127\n")
    broken.chmod(0o755)
    with pytest.raises(UsageError, match=r"does not run here: libb64"):
        find_perf_analyzer(broken)
