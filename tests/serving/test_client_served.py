"""The Python clients and the real Triton server: what one output costs, what a cancel stops, TLS and keys."""

import asyncio
import datetime as dt
import ipaddress
import json
import os
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from coronanet import cli
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice, LocalEnsemble
from coronanet.model.phantom import make_phantom
from coronanet.model.tasks import TASKS, TaskName
from coronanet.serving.client import Answer, AsyncClient, Client, Connection, Tls, UnansweredError, UsageError
from coronanet.serving.installation import environment, find_installation, link_backend
from coronanet.serving.repository import fill_repository
from coronanet.serving.server import Ports, TritonServer
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .conftest import settled

KEY = ("infer-key", "s3cret=value")
OUTPUTS = tuple(task.output for task in TASKS.values())
#: How often one output and all of them are asked for in turns.
ROUNDS = int(os.environ.get("CORONANET_ROUNDS", "15"))


def _runs(address: str) -> dict[str, int]:
    """How often each model has inferred."""
    with grpc_client.InferenceServerClient(address) as client:

        def count() -> dict[str, int]:
            statistics: Any = client.get_inference_statistics()
            return {model.name: int(model.execution_count) for model in statistics.model_stats}

        return settled(count)


def _moved(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}


def test_a_study_through_both_clients_is_what_the_local_ensemble_decides(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], triton_server: TritonServer
) -> None:
    image = make_phantom(size=128, slices=7).image

    async def predict() -> Answer:
        async with AsyncClient(triton_server.address) as client:
            return await client.predict(image)

    with LocalEnsemble(bundles, choices) as local, Client(triton_server.address) as client:
        expected = local.infer({"image": image})
        for served in (client.predict(image), asyncio.run(predict())):
            assert served.keys() == expected.keys()
            for name, array in expected.items():
                np.testing.assert_allclose(served[name], array, atol=1e-6, err_msg=name)
    assert expected["lung_mask"].any()


@pytest.mark.parametrize(
    ("output", "steps"),
    [
        ("infected_probability", {"preprocess", "classification", "decide_classification"}),
        ("lung_mask", {"preprocess", "lung_segmentation", "decide_lung_segmentation"}),
    ],
)
def test_one_output_costs_only_its_steps(triton_server: TritonServer, output: str, steps: set[str]) -> None:
    image = make_phantom().image[:3]
    before = _runs(triton_server.address)
    with Client(triton_server.address, outputs=[output]) as client:
        assert client.predict(image).keys() == {output}
    assert _moved(before, _runs(triton_server.address)) == {"coronanet": 3, **dict.fromkeys(steps, 3)}


def test_the_cheapest_output_takes_less_time_than_all(
    triton_server: TritonServer, record_property: Callable[[str, object], None]
) -> None:
    image = make_phantom(size=512, slices=1).image
    wanted = {"all": None, **{output: [output] for output in OUTPUTS}}
    times: dict[str, list[float]] = {name: [] for name in wanted}
    with ExitStack() as stack:
        clients = {
            name: stack.enter_context(Client(triton_server.address, outputs=outputs))
            for name, outputs in wanted.items()
        }
        for _ in range(ROUNDS):
            for name, client in clients.items():
                started = time.perf_counter()
                client.predict(image)
                times[name].append(time.perf_counter() - started)
    # Of each round a ratio, so that what slows a machine for a while slows both.
    ratios = {
        name: statistics.median(one / whole for one, whole in zip(times[name], times["all"], strict=True))
        for name in OUTPUTS
    }
    # Where there are cores for all networks at once, the dearest output takes as long as all.
    assert min(ratios.values()) < 1
    record_property("figure", ", ".join(f"{name} {ratio:.2f}" for name, ratio in ratios.items()))


@pytest.mark.parametrize(
    ("held", "begun"),
    [("preprocess", ["preprocess"]), ("lung_segmentation", ["preprocess", "lung_segmentation"])],
)
def test_after_a_cancel_no_later_step_starts(triton_server: TritonServer, held: str, begun: list[str]) -> None:
    image = make_phantom().image[:1]
    address = triton_server.address

    async def cancel() -> None:
        async with AsyncClient(address, outputs=["lung_mask"]) as client:
            with _stopped(triton_server, held):
                request = asyncio.create_task(client.predict(image))
                await asyncio.sleep(0.2)
                request.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await request
                await asyncio.sleep(0.1)

    before = _runs(address)
    asyncio.run(cancel())
    assert _moved(before, _runs(address)) == dict.fromkeys(begun, 1)
    with Client(address, outputs=["lung_mask"]) as client:
        assert client.predict(image).keys() == {"lung_mask"}


@contextmanager
def _stopped(server: TritonServer, model: str) -> Generator[None]:
    """The processes of a model held still for a moment."""
    command = ["ps", "-eww", "-o", "pid=,pgid=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=2) for line in listed.splitlines()]
    pids = [int(pid) for pid, group, args in rows if int(group) == server.pid and f"/{model}/1/model.py" in args]
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@dataclass(frozen=True)
class Certificates:
    """PEM files: an authority, and a server and a client that it vouches for."""

    root: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]

    @property
    def tls(self) -> Tls:
        return Tls(self.root, *self.client)


def _certify(folder: Path) -> Certificates:
    folder.mkdir()
    authority = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
    now = dt.datetime.now(dt.UTC)

    def issue(subject: str) -> tuple[Path, Path]:
        key = authority if subject == "root" else ec.generate_private_key(ec.SECP256R1())
        builder = (
            x509.CertificateBuilder()
            .subject_name(name if subject == "root" else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=subject == "root", path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        certificate = builder.sign(authority, hashes.SHA256())
        files = folder / f"{subject}.pem", folder / f"{subject}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files

    return Certificates(issue("root")[0], issue("server"), issue("client"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return _certify(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def secured(
    small_bundles: dict[TaskName, Bundle], certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Connection]:
    """A real Triton server that speaks TLS, asks for a client's certificate, and keeps inference behind a key."""
    folder = tmp_path_factory.mktemp("secured")
    repository = folder / "triton_repo"
    fill_repository(small_bundles, repository, dict.fromkeys(small_bundles, Choice(threads=1)), instances=1)
    installation, port = find_installation(), Ports.free().grpc
    backends = link_backend(installation)
    options = {
        "model-repository": repository,
        "backend-directory": backends,
        "cache-directory": installation.caches,
        "allow-http": "false",
        "allow-metrics": "false",
        "grpc-address": "127.0.0.1",
        "grpc-port": port,
        "grpc-use-ssl": "true",
        "grpc-use-ssl-mutual": "true",
        "grpc-server-cert": certificates.server[0],
        "grpc-server-key": certificates.server[1],
        "grpc-root-cert": certificates.root,
        "grpc-restricted-protocol": f"inference:{KEY[0]}={KEY[1]}",
        "trace-config": f"triton,file={tmp_path_factory.mktemp('traces') / 'trace.json'}",
        "exit-timeout-secs": 5,
    }
    command = [str(installation.binary), "--disable-auto-complete-config"]
    command += [f"--{name}={value}" for name, value in options.items()]
    command.append("--backend-config=python,shm-region-prefix-name=coronanet-secured-")
    connection = Connection(f"127.0.0.1:{port}", certificates.tls, (KEY,))
    log = folder / "log"
    with (
        log.open("wb") as file,
        subprocess.Popen(command, stdout=file, stderr=file, env=environment(installation), cwd=backends) as process,
    ):
        try:
            _wait(connection, process, log)
            yield connection
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _wait(connection: Connection, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with Client(connection):
                return
        except UsageError:
            time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


def test_tls_on_both_sides_and_a_key(secured: Connection) -> None:
    image = make_phantom(size=64, slices=2).image

    async def predict() -> Answer:
        async with AsyncClient(secured) as client:
            return await client.predict(image)

    with Client(secured) as client:
        answer = client.predict(image)
    assert answer["lesion_types"].shape == image.shape
    for name, array in asyncio.run(predict()).items():
        np.testing.assert_array_equal(array, answer[name])


def test_without_the_key_the_server_answers_with_what_mends_it(secured: Connection) -> None:
    for keys in ((), ((KEY[0], "another"),), (("other", KEY[1]),)):
        with (
            Client(replace(secured, keys=keys)) as client,
            pytest.raises(UsageError, match=r"asks for a key .*CORONANET_SERVER_KEY") as refused,
        ):
            client.predict(np.zeros((1, 8, 8), np.int16))
        assert not isinstance(refused.value, UnansweredError)


def test_who_is_not_vouched_for_is_not_spoken_to(secured: Connection, tmp_path: Path) -> None:
    others = _certify(tmp_path / "others")
    assert secured.tls is not None
    for tls in (others.tls, replace(others.tls, roots=secured.tls.roots), Tls(secured.tls.roots), Tls()):
        with pytest.raises(UnansweredError, match=f"no encrypted connection to {secured.address}"):
            Client(replace(secured, tls=tls), timeout_s=10)


def test_a_server_that_speaks_tls_is_told_from_none(secured: Connection) -> None:
    with pytest.raises(UnansweredError, match="--tls-root where the server speaks TLS"):
        Client(secured.address, timeout_s=10)


def test_predict_speaks_tls_and_takes_its_key_from_a_file_or_the_environment(
    secured: Connection,
    certificates: Certificates,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / "black.png")
    (tmp_path / "key").write_text("=".join(KEY) + "\n")
    options = {
        "--server": secured.address,
        "--tls-root": certificates.root,
        "--tls-certificate": certificates.client[0],
        "--tls-key": certificates.client[1],
        "--window": "lung",
        "--out": tmp_path / "out",
    }
    arguments = ["predict", str(tmp_path / "black.png"), *(str(part) for pair in options.items() for part in pair)]

    def run(*more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main([*arguments, "--json", *more])
        said = capsys.readouterr()
        assert KEY[1] not in said.out + said.err
        return int(stopped.value.code or 0), said.out, said.err

    code, out, error = run("--server-key", str(tmp_path / "key"))
    assert code == 0, error
    assert json.loads(out)["results"][0]["report"]["models"][0]["backend"] == "triton"
    monkeypatch.setenv("CORONANET_SERVER_KEY", "=".join(KEY))
    assert run()[0] == 0
    monkeypatch.setenv("CORONANET_SERVER_KEY", f"{KEY[0]}=another")
    code, _, error = run()
    assert code == 2
    assert "asks for a key" in error


@pytest.mark.parametrize(
    ("arguments", "expected", "says"),
    [
        (["serving", "--model", "all"], 0, "decide_lung_segmentation"),
        (["waterfall", "--served-only"], 0, '"adds_up": true'),
        (["triage", "--data", "."], 2, "refused coronanet_triage"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_the_benchmarks_speak_tls_and_take_a_key(
    secured: Connection,
    certificates: Certificates,
    bundles: dict[TaskName, Bundle],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: int,
    says: str,
) -> None:
    # Of `bench triage` only what it asks the server is looked at, which has no such model.
    monkeypatch.setattr("coronanet.engines.datasets.load_split", lambda *_: None)
    monkeypatch.setattr("coronanet.engines.ranking.choose", lambda *_: {})
    monkeypatch.setattr("coronanet.benchmarks.bench_triage.measure_triage", lambda *_, **__: None)
    options = {
        "--server": secured.address,
        "--tls-root": certificates.root,
        "--tls-certificate": certificates.client[0],
        "--tls-key": certificates.client[1],
    }
    short = ["--concurrency", "1", "--requests", "3"] if arguments[0] != "triage" else []
    given = ["bench", *arguments, *short, *(str(part) for pair in options.items() for part in pair), "--json"]

    def run() -> tuple[int, str]:
        with pytest.raises(SystemExit) as stopped:
            cli.main(given)
        said = capsys.readouterr()
        assert KEY[1] not in said.out + said.err
        return int(stopped.value.code or 0), said.out

    monkeypatch.setenv("CORONANET_SERVER_KEY", "=".join(KEY))
    code, out = run()
    assert code == expected, out
    assert says in out
    given.remove("--tls-root")
    given.remove(str(certificates.root))
    assert run()[0] == 2
