"""The dashboard and the alerts ask for what a live server and its watchdog really expose."""

import http.client
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from coronanet.engines.places import ROOT
from coronanet.model.tasks import TASKS
from coronanet.serving.monitor import Monitor
from coronanet.serving.server import START_TIMEOUT_S, TritonServer

FOLDER = ROOT / "serving" / "observability"
METRIC = re.compile(r"\b(?:nv|coronanet)_[a-z0-9_]+")


def _dashboard() -> Any:
    return json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))


def _rules() -> dict[str, Any]:
    """The alerts, by name."""
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def _queries() -> dict[str, list[str]]:
    """What is asked for, by where it is asked."""
    panels = {panel["title"]: [target["expr"] for target in panel["targets"]] for panel in _dashboard()["panels"]}
    rules = {name: [rule["expr"]] for name, rule in _rules().items()}
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    adapter = {"docs/operations.md": re.findall(r"^[- ]*(?:seriesQuery|metricsQuery): (.+)$", page, re.MULTILINE)}
    return {**panels, **rules, **adapter}


@pytest.fixture(scope="module")
def exposed(triton_server: TritonServer) -> set[str]:
    """The names of every sample of a live Triton and of a watchdog beside it."""
    with Monitor(port=0) as monitor:
        monitor.serves({"classification": "abc"}, ["classification"])
        monitor.canary_answered(0.02)
        text = _read(triton_server.metrics_address) + _read(monitor.address)
    # As they stand: the parser of prometheus_client gives Triton's counters another name.
    return {re.split(r"[{ ]", line)[0] for line in text.splitlines() if not line.startswith("#")}


def _read(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
        return answer.read().decode()


@pytest.mark.parametrize("name", _queries())
def test_every_query_names_metrics_that_are_there(exposed: set[str], name: str) -> None:
    queries = _queries()[name]
    named = {metric for query in queries for metric in METRIC.findall(query)}
    assert named, queries
    assert named <= exposed, sorted(named - exposed)


def _seconds(duration: str) -> int:
    """Of what Prometheus writes as `2m`."""
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600}[duration[-1]]


def test_one_scrape_fires_nothing_and_a_start_does_not_page() -> None:
    rules = _rules()
    assert [name for name, rule in rules.items() if _seconds(rule.get("for", "0s")) < 60] == []
    for name in ("CoronanetCanaryFails", "CoronanetNobodyServes"):
        assert _seconds(rules[name]["for"]) >= START_TIMEOUT_S
    assert "coronanet_watchdog_last_heard_timestamp_seconds > 0" in rules["CoronanetWatchdogSilent"]["expr"]


def test_a_server_that_is_gone_pages_with_a_watchdog_and_without() -> None:
    pages = [rule["expr"] for rule in _rules().values() if rule["labels"]["severity"] == "page"]
    assert [expr for expr in pages if expr.endswith("unless coronanet_up")]
    assert [expr for expr in pages if expr.startswith("absent(nv_")]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
def test_prometheus_pages_when_it_should() -> None:
    course = Path(__file__).with_name("alerts_test.yaml")
    tested = subprocess.run(["promtool", "test", "rules", course], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_dashboard_is_whole() -> None:
    dashboard = _dashboard()
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    taken = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len(set(taken)), "panels lie over each other"
    assert max(x for x, _ in taken) == 23
    (source,) = dashboard["templating"]["list"]
    assert {panel["datasource"]["uid"] for panel in panels} == {f"${{{source['name']}}}"}
    assert {target["datasource"]["uid"] for panel in panels for target in panel["targets"]} == {"${datasource}"}


@pytest.fixture
def connection(triton_server: TritonServer) -> Iterator[http.client.HTTPConnection]:
    host, port = triton_server.http_address.split(":")
    opened = http.client.HTTPConnection(host, int(port), timeout=30)
    yield opened
    opened.close()


def test_the_canary_of_the_probes_is_answered_by_every_step(connection: http.client.HTTPConnection) -> None:
    canary = yaml.safe_load((ROOT / "serving" / "kubernetes" / "canary.yaml").read_text(encoding="utf-8"))
    body = canary["data"]["request.json"]
    connection.request("POST", "/v2/models/coronanet/infer", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    outputs = {output["name"] for output in json.loads(answer.read())["outputs"]}
    assert answer.status == 200
    assert outputs == {task.output for task in TASKS.values()}


def test_the_path_of_the_probes_is_triton_s(connection: http.client.HTTPConnection) -> None:
    connection.request("GET", "/v2/health/live")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200
