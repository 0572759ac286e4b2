"""The manifests: what the published schemas of Kubernetes take, and what a hospital's cluster should ask of a pod."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from coronanet.engines.places import ROOT
from coronanet.model.tasks import ENSEMBLE
from coronanet.serving.closed import closing_options
from coronanet.serving.container import NEWEST, REGISTRY, USER
from coronanet.serving.repository import CONFIG_PATHS
from coronanet.serving.server import TritonServer

FOLDER = ROOT / "serving" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
KINDS = {
    "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PersistentVolumeClaim",
    "PodDisruptionBudget", "Service",
}  # fmt: skip
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl, which the probes run, is not installed")


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """Kind -> manifest."""
    loaded = [_load(path) for path in FILES]
    return {each["kind"]: each for each in loaded}


@pytest.fixture(scope="module")
def pod(manifests: dict[str, Any]) -> Any:
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_kubernetes_takes_it(path: Path) -> None:
    kubernetes_validate.validate(_load(path), kubernetes_validate.latest_version(), strict=True)


def test_the_schemas_refuse_what_is_wrong() -> None:
    deployment = _load(FOLDER / "deployment.yaml")
    deployment["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnly"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, kubernetes_validate.latest_version(), strict=True)


def test_everything_selects_the_pods_of_the_deployment(manifests: dict[str, Any]) -> None:
    assert manifests.keys() == KINDS
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert manifests["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert manifests["Service"]["spec"]["selector"] == labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    deployment = manifests["Deployment"]
    assert (target["kind"], target["name"]) == (deployment["kind"], deployment["metadata"]["name"])


def test_ports_volumes_and_claims_have_their_other_end(manifests: dict[str, Any], pod: Any) -> None:
    (container,) = pod["containers"]
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in manifests["Service"]["spec"]["ports"]} == ports
    rules = manifests["NetworkPolicy"]["spec"]["ingress"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == ports
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == manifests["PersistentVolumeClaim"]["metadata"]["name"]
    assert volumes["canary"]["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]


def test_the_volume_can_be_filled_as_the_page_says(manifests: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"<<'END'\n(.+?)\nEND\n", page, re.DOTALL)
    filler = yaml.safe_load(text)
    kubernetes_validate.validate(filler, kubernetes_validate.latest_version(), strict=True)
    (volume,) = filler["spec"]["volumes"]
    (mount,) = filler["spec"]["containers"][0]["volumeMounts"]
    claim = manifests["PersistentVolumeClaim"]
    assert volume["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}, "it may write"
    assert "readOnly" not in mount
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert f"kubectl cp models/. {filler['metadata']['name']}:{mount['mountPath']}" in page


def test_the_pod_can_do_nothing_but_serve(manifests: dict[str, Any], pod: Any) -> None:
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == USER
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    read_only = {mount["name"] for mount in container["volumeMounts"] if mount.get("readOnly")}
    assert read_only == {"models", "canary"}
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert {*closing_options()} < {*container["args"]}
    assert manifests["NetworkPolicy"]["spec"]["egress"] == []


def test_it_runs_a_target_that_the_repository_has(pod: Any) -> None:
    (container,) = pod["containers"]
    assert container["image"] == f"{REGISTRY}:{NEWEST}-py3"
    (name,) = [word.split("=")[1] for word in container["args"] if word.startswith("--model-config-name=")]
    assert name in CONFIG_PATHS
    grace, exit_s = pod["terminationGracePeriodSeconds"], int(re.findall(r"exit-timeout-secs=(\d+)", str(container))[0])
    (_, pause) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert grace > exit_s + int(pause)


def test_readiness_is_an_inference_and_not_a_port(pod: Any, manifests: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    script = manifests["ConfigMap"]["data"]["probe.sh"]
    assert f"/v2/models/{ENSEMBLE}/infer" in script
    assert "/canary/request.json" in script
    later = [float(seconds) for seconds in re.findall(r"--max-time (\d+)", script)]
    names: set[str] = set()
    for probe in PROBES:
        shell, file, name, seconds = container[probe]["exec"]["command"]
        assert (shell, file) == ("sh", "/canary/probe.sh")
        names.add(name)
        assert float(seconds) + sum(later) * (name != "startup") < container[probe]["timeoutSeconds"]
    assert len(names) == len(PROBES), "each has notes of its own"


@dataclass(frozen=True)
class Probes:
    """The probes of a pod, as its container runs them, with ``folder`` in the place of its disks."""

    pod: Any
    canary: Any
    folder: Path

    def ask(
        self, probe: str, http: str | int, metrics: str | int, *, canary_s: str = "30", live_s: str = "30", **more: str
    ) -> bool:
        """Whether a probe is content with what stands at two ports; ``more`` is its environment.

        The two limits are long where an answer comes, however busy this machine is, and short where none does.
        """
        for name, text in self.canary.items():
            here = re.sub(r"/(canary|tmp)/", f"{self.folder}/", text).replace(":8000/", f":{http}/")
            here = here.replace(":8002/", f":{metrics}/").replace("--max-time 2", f"--max-time {live_s}")
            (self.folder / name).write_text(here)
        shell, file, name, _ = self.pod["containers"][0][probe]["exec"]["command"]
        command = [shell, file.replace("/canary", str(self.folder)), name, canary_s]
        ended = subprocess.run(
            command,
            check=False,
            timeout=120,
            env={**os.environ, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        return ended.returncode == 0


@pytest.fixture
def probes(pod: Any, manifests: dict[str, Any], tmp_path: Path) -> Probes:
    return Probes(pod, dict(manifests["ConfigMap"]["data"]), tmp_path)


@dataclass
class Triton:
    """What stands at the ports of a pod, as far as a probe sees it.

    Attributes:
        canary: the status that the canary is answered with; 0: not before the probe gives up.
        alive: whether the server says that it lives; False: it says nothing.
        probability: what the canary is answered.
        works: whether it answers others from one look at its metrics to the next.
    """

    canary: int
    alive: bool = True
    probability: float = 0.17
    works: bool = True
    answered: int = 7


@contextmanager
def _listening(triton: Triton) -> Generator[int]:
    """The port of a server that is such a Triton."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            output = {"name": "infected_probability", "datatype": "FP32", "shape": [1, 1], "data": [triton.probability]}
            mask = {"name": "lung_mask", "datatype": "UINT8", "shape": [1, 1, 2], "data": [0, 0]}
            self._answer(triton.canary, json.dumps({"outputs": [output, mask]}, separators=(",", ":")))

        def do_GET(self) -> None:
            triton.answered += triton.works
            self._answer(
                200 if triton.alive else 0,
                f'nv_inference_request_success{{model="coronanet",version="1"}} {triton.answered}\n'
                f'nv_inference_request_success{{model="coronanet_triage",version="1"}} {time.monotonic()}\n',
            )

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of http.server
            pass

        def _answer(self, status: int, body: str) -> None:
            if not status:
                ended.wait(30)
                return
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        ended.set()
        server.shutdown()
        thread.join()


@contextmanager
def _nobody() -> Generator[int]:
    """A port where nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


#: What stands there, and which probes are content with it.
SEEN: dict[str, tuple[Callable[[], AbstractContextManager[int]], set[str]]] = {
    "answers": (lambda: _listening(Triton(200)), {"startupProbe", "readinessProbe", "livenessProbe"}),
    "gives zeros": (lambda: _listening(Triton(200, probability=0.0)), set()),
    "full": (lambda: _listening(Triton(503)), {"readinessProbe", "livenessProbe"}),
    "late": (lambda: _listening(Triton(0)), {"readinessProbe", "livenessProbe"}),
    "fails": (lambda: _listening(Triton(500)), set()),
    "hangs": (lambda: _listening(Triton(0, alive=False)), set()),
    "dead": (_nobody, set()),
}


@needs_curl
@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("probe", PROBES)
def test_a_busy_pod_stays_and_one_that_never_answered_does_not_come(probes: Probes, probe: str, seen: str) -> None:
    stands, content = SEEN[seen]
    silent = {"canary_s": "0.5"} if seen in ("late", "hangs") else {}
    dumb = {"live_s": "0.5"} if seen == "hangs" else {}
    with stands() as port:
        assert probes.ask(probe, port, port, **silent, **dumb) is (probe in content)


@needs_curl
@pytest.mark.parametrize("status", [0, 503], ids=["late", "full"])
@pytest.mark.parametrize("probe", ["readinessProbe", "livenessProbe"])
def test_a_pod_that_is_late_while_nobody_is_answered_goes(probes: Probes, probe: str, status: int) -> None:
    triton = Triton(status)
    with _listening(triton) as port:
        canary_s = "30" if status else "0.5"
        assert [probes.ask(probe, port, port, canary_s=canary_s) for _ in range(3)] == [True] * 3, "busy"
        triton.works = False
        assert probes.ask(probe, port, port, canary_s=canary_s) is True, "somebody was answered since the last one"
        assert [probes.ask(probe, port, port, canary_s=canary_s) for _ in range(2)] == [False] * 2, "stalled"
        triton.canary = 200
        assert probes.ask(probe, port, port) is True
        triton.canary = status
        assert probes.ask(probe, port, port, canary_s=canary_s) is True, "late for the first time again"


@needs_curl
def test_what_a_probe_noted_is_forgotten_at_a_new_start(probes: Probes) -> None:
    triton = Triton(503, works=False)
    with _listening(triton) as port:
        assert [probes.ask("livenessProbe", port, port) for _ in range(2)] == [True, False]
        assert probes.ask("startupProbe", port, port) is False
        assert probes.ask("livenessProbe", port, port) is True


@needs_curl
@pytest.mark.parametrize("probe", ["readinessProbe", "livenessProbe"])
def test_metrics_that_cannot_be_read_are_no_reason(probes: Probes, probe: str) -> None:
    with _listening(Triton(503)) as port, _nobody() as metrics:
        assert [probes.ask(probe, port, metrics) for _ in range(2)] == [True, True]


@needs_curl
@pytest.mark.parametrize("probe", PROBES)
def test_a_live_triton_gives_the_canary_what_it_is_compared_with(
    probes: Probes, probe: str, triton_server: TritonServer
) -> None:
    http, metrics = triton_server.ports.http, triton_server.ports.metrics
    assert probes.ask(probe, http, metrics, canary_s="30")
    probes.canary["probability"] = "0.27"
    assert not probes.ask(probe, http, metrics, canary_s="30")
    with urllib.request.urlopen(f"http://{triton_server.metrics_address}/metrics", timeout=30) as answer:
        assert b'\nnv_inference_request_success{model="coronanet",' in answer.read()


@pytest.mark.parametrize("probe", PROBES)
def test_no_response_cache_has_the_answer(probes: Probes, probe: str) -> None:
    request = probes.canary["request.json"]
    sent, tools = probes.folder / "sent", probes.folder / "tools"
    tools.mkdir()
    (tools / "curl").write_text(f"#!/bin/sh\ncat >> {sent}\necho >> {sent}\n")
    (tools / "date").write_text("#!/bin/sh\necho $NOW\n")
    for program in tools.iterdir():
        program.chmod(0o755)
    for now in ("1764129600", "1764129601"):
        probes.ask(probe, 0, 0, PATH=f"{tools}:{os.environ['PATH']}", NOW=now)
    first, second = (json.loads(line) for line in sent.read_text().split("\n") if line)
    assert first.keys() == second.keys() == json.loads(request).keys()
    (one,), (other,) = first["inputs"], second["inputs"]
    assert one["data"][:10] == [-1001, -1007, -1006, -1004, -1001, -1002, -1009, -1006, -1000, -1000]
    assert other["data"][:10] == [*one["data"][:9], -1001]
    assert one["data"][10:] == other["data"][10:] == [-1000] * (32 * 32 - 10)
