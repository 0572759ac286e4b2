"""A real PACS: Orthanc with its DICOMweb plugin, on a free port of loopback, for as long as the tests run."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from coronanet.serving.pacs.address import PASSWORD, USER

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
CREDENTIALS = ("radiology", "a secret with spaces")


@dataclass(frozen=True)
class Orthanc:
    """A running server; its own REST interface, not DICOMweb, says what it holds."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/dicom-web"

    def ask(self, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=body)
        request.add_header("Authorization", "Basic " + base64.b64encode(":".join(CREDENTIALS).encode()).decode())
        with urllib.request.urlopen(request, timeout=20) as answer:
            data = answer.read()
        return json.loads(data) if answer.headers.get_content_type() == "application/json" else data

    def upload(self, paths: list[Path]) -> None:
        for path in paths:
            self.ask("/instances", path.read_bytes())

    def objects(self, modality: str) -> list[bytes]:
        """Every stored object of a modality, as its file."""
        query = json.dumps({"Level": "Instance", "Query": {"Modality": modality}}).encode()
        return [self.ask(f"/instances/{found}/file") for found in self.ask("/tools/find", query)]


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
    if program is None or not PLUGIN.exists():
        pytest.skip("Orthanc is not installed: apt install orthanc orthanc-dicomweb")
    work = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        server = Orthanc(probe.getsockname()[1])
    configuration = {
        "StorageDirectory": str(work / "storage"),
        "HttpPort": server.port,
        "HttpBindAddresses": ["127.0.0.1"],
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {CREDENTIALS[0]: CREDENTIALS[1]},
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (work / "orthanc.json").write_text(json.dumps(configuration))
    with (
        (work / "log").open("wb") as log,
        subprocess.Popen([program, str(work / "orthanc.json")], stdout=log, stderr=log, cwd=work) as process,
    ):
        try:
            _wait(server, process, work / "log")
            yield server
        finally:
            process.terminate()


def _wait(server: Orthanc, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            server.ask("/dicom-web/studies")
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"Orthanc did not start:\n{log.read_text()}")
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Sets the credentials in the environment; without it there are none."""

    def set_credentials(user: str, password: str) -> None:
        monkeypatch.setenv(USER, user)
        monkeypatch.setenv(PASSWORD, password)

    monkeypatch.delenv(USER, raising=False)
    monkeypatch.delenv(PASSWORD, raising=False)
    return set_credentials
