"""The manifests: what the published schemas of Kubernetes take, and what a hospital's cluster should ask of a pod."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
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

FOLDER = ROOT / "serving" / "kubernetes"
FILES = sorted(FOLDER.glob("*.yaml"))
KINDS = {
    "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PersistentVolumeClaim",
    "PodDisruptionBudget", "Service",
}  # fmt: skip
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


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


def test_readiness_is_an_inference_and_not_a_port(pod: Any) -> None:
    (container,) = pod["containers"]
    for probe in PROBES:
        command = " ".join(container[probe]["exec"]["command"])
        assert f"/v2/models/{ENSEMBLE}/infer" in command
        assert "/canary/request.json" in command
        limits = [float(seconds) for seconds in re.findall(r"--max-time (\d+)", command)]
        assert sum(limits) < container[probe]["timeoutSeconds"]


@dataclass
class Triton:
    """What stands at port 8000 of a pod, as far as a probe sees it.

    Attributes:
        canary: the status that the canary is answered with; 0: not before the probe gives up.
        alive: whether the server says that it lives; False: it says nothing.
    """

    canary: int
    alive: bool = True


@contextmanager
def _listening(triton: Triton) -> Generator[int]:
    """The port of a server that is such a Triton."""
    ended = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(triton.canary)

        def do_GET(self) -> None:
            self._answer(200 if triton.alive else 0)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature of http.server
            pass

        def _answer(self, status: int) -> None:
            if not status:
                ended.wait(30)
                return
            self.send_response(status)
            self.end_headers()

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
    "full": (lambda: _listening(Triton(503)), {"readinessProbe", "livenessProbe"}),
    "late": (lambda: _listening(Triton(0)), {"readinessProbe", "livenessProbe"}),
    "fails": (lambda: _listening(Triton(500)), set()),
    "hangs": (lambda: _listening(Triton(0, alive=False)), set()),
    "dead": (_nobody, set()),
}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl, which the probes run, is not installed")
@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("probe", PROBES)
def test_a_busy_pod_stays_and_one_that_never_answered_does_not_come(
    pod: Any, manifests: dict[str, Any], tmp_path: Path, probe: str, seen: str
) -> None:
    (tmp_path / "request.json").write_text(manifests["ConfigMap"]["data"]["request.json"])
    stands, content = SEEN[seen]
    shell, option, script = pod["containers"][0][probe]["exec"]["command"]
    with stands() as port:
        here = script.replace("/canary/", f"{tmp_path}/").replace(":8000/", f":{port}/")
        impatient = re.sub(r"--max-time \d+", "--max-time 0.5", here)
        ended = subprocess.run([shell, option, impatient], capture_output=True, check=False, timeout=20)
    assert (ended.returncode == 0) is (probe in content), ended.stderr


@pytest.mark.parametrize("probe", PROBES)
def test_no_response_cache_has_the_answer(pod: Any, manifests: dict[str, Any], tmp_path: Path, probe: str) -> None:
    request = manifests["ConfigMap"]["data"]["request.json"]
    (tmp_path / "request.json").write_text(request)
    _, _, script = pod["containers"][0][probe]["exec"]["command"]
    (tmp_path / "curl").write_text(f"#!/bin/sh\ncat >> {tmp_path}/sent\necho >> {tmp_path}/sent\necho 200\n")
    (tmp_path / "date").write_text("#!/bin/sh\necho $NOW\n")
    for program in ("curl", "date"):
        (tmp_path / program).chmod(0o755)
    script = script.replace("/canary/", f"{tmp_path}/").replace("&& curl --fail --silent --output", "&& : --output")
    for now in ("1764129600", "1764129601"):
        environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "NOW": now}
        subprocess.run(["sh", "-c", script], check=True, env=environment, capture_output=True)
    first, second = (json.loads(line) for line in (tmp_path / "sent").read_text().split("\n") if line)
    assert first.keys() == second.keys() == json.loads(request).keys()
    (one,), (other,) = first["inputs"], second["inputs"]
    assert one["data"][:10] == [-1001, -1007, -1006, -1004, -1001, -1002, -1009, -1006, -1000, -1000]
    assert other["data"][:10] == [*one["data"][:9], -1001]
    assert one["data"][10:] == other["data"][10:] == [-1000] * (32 * 32 - 10)
