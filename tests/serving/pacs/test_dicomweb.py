"""Servers that are no PACS, or a bad one: each is one line, and none of them fills the memory or the disk."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from coronanet.model.errors import CoronanetError, RefusedError, UsageError
from coronanet.serving.pacs import dicomweb
from coronanet.serving.pacs import http as pacs_http
from coronanet.serving.pacs.address import parse_address
from coronanet.serving.pacs.dicomweb import RemoteSeries, fetch_series, find_series, store
from coronanet.serving.pacs.http import Client
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage

DICOM = b"\0" * 128 + b"DICM" + b"x" * 1000
JSON = "application/dicom+json"
MULTIPART = 'multipart/related; type="application/dicom"; boundary=abc'


@dataclass
class Script:
    """What the server answers, by path: status, content type, body, and headers beyond; what it was sent."""

    answers: dict[str, tuple[int, str, bytes]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)
    delay_s: float = 0.0
    endless: bool = False
    break_off: bool = False


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def client(script: Script, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """A client of a server that follows the script."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            script.asked.append(self.path)
            status, kind, body = script.answers.get(self.path.partition("?")[0], (404, "text/html", b""))
            time.sleep(script.delay_s)
            self.send_response(status)
            more = 10 if script.break_off and kind != JSON else 0
            self.close_connection = bool(more)
            lengths = {"Content-Type": kind, "Content-Length": str(len(body) + more)}
            for name, value in (lengths | script.headers).items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
                while script.endless:
                    self.wfile.write(b"[" * 2**16)
            except OSError:
                self.close_connection = True

        def do_POST(self) -> None:
            script.received.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Quiet."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is what some tests are about."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        address = parse_address(f"http://127.0.0.1:{server.server_port}/root/")
        with Client(address, timeout_s=1) as client:
            yield client
        server.shutdown()


def listed(*uids: str, tag: str = "00080018") -> bytes:
    return json.dumps([{tag: {"vr": "UI", "Value": [uid]}} for uid in uids]).encode()


def part(content: bytes, end: bytes = b"\r\n--abc--") -> bytes:
    return b"--abc\r\nContent-Type: application/dicom\r\n\r\n" + content + end


SERIES = RemoteSeries("1.2", "1.3", "CT", None)
OBJECTS = "/root/studies/1.2/series/1.3/instances"


def refusal(action: Callable[[], Any], kind: type[CoronanetError] = UsageError) -> str:
    with pytest.raises(kind) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind", "body", "message"),
    [
        (200, "text/html", b"<html>welcome</html>", "is no PACS (no JSON came)"),
        (200, JSON, b"[" * 100_000, "is no PACS (no JSON came)"),
        (200, JSON, b'{"a": 1}', "no list of objects"),
        (200, JSON, b"[1, 2]", "no list of objects"),
        (200, JSON, b'[{"0020000E": {"vr": "UI", "Value": ["../../x"]}}]', "a list without UIDs"),
        (200, JSON, b'[{"0020000E": 5}]', "a list without UIDs"),
        (200, JSON, b"[]", "has no study"),
        (204, JSON, b"", "has no study"),
        (404, JSON, b"", "has nothing there (404)"),
        (401, JSON, b"", "refuses these credentials (401)"),
        (500, JSON, b"Secret^Name", "answers with status 500"),
        (302, JSON, b"", "points elsewhere (302)"),
    ],
)
def test_a_search_that_is_not_answered_as_by_a_pacs(
    script: Script, client: Client, status: int, kind: str, body: bytes, message: str
) -> None:
    script.answers["/root/studies/1.2/series"] = (status, kind, body)
    said = refusal(lambda: find_series(client, study="1.2"))
    assert message in said
    assert "Secret" not in said


def test_an_answer_without_end_is_cut(script: Script, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacs_http, "MAX_JSON", 2**20)
    script.answers["/root/studies/1.2/series"] = (200, JSON, b"[")
    script.endless, script.headers["Content-Length"] = True, str(2**40)
    assert "sends more than 1 MiB" in refusal(lambda: find_series(client, study="1.2"))


def test_a_server_that_does_not_answer_in_time(script: Script, client: Client) -> None:
    script.answers["/root/studies/1.2/series"] = (200, JSON, b"[]")
    script.delay_s = 1.5
    assert "does not answer in time" in refusal(lambda: find_series(client, study="1.2"))


def test_an_answer_that_takes_for_ever_is_cut(script: Script, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacs_http, "ANSWER_S", 0.0)
    script.answers["/root/studies/1.2/series"] = (200, JSON, b"[]")
    assert "took more than 0 s" in refusal(lambda: find_series(client, study="1.2"))


def test_a_series_that_a_server_does_not_filter_by_is_found_among_all(script: Script, client: Client) -> None:
    entry = {"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": ["1.3"]}, "00080060": {"Value": ["CT"]}}
    other = {"0020000D": {"Value": ["1.9"]}, "0020000E": {"Value": ["1.8"]}}
    script.answers["/root/series"] = (200, JSON, json.dumps([other, entry]).encode())
    assert find_series(client, series="1.3") == [SERIES]


def test_objects_come_as_files_whatever_the_server_splits(script: Script, client: Client, tmp_path: Path) -> None:
    content = DICOM + b"\r\n--ab" * 30_000
    script.answers[OBJECTS] = (200, JSON, listed("1.4", "1.5"))
    script.answers[OBJECTS + "/1.4"] = (200, MULTIPART, b"preamble\r\n" + part(content))
    script.answers[OBJECTS + "/1.5"] = (200, "application/dicom", DICOM)
    assert fetch_series(client, SERIES, tmp_path) == len(content) + len(DICOM)
    assert [file.read_bytes() for file in sorted(tmp_path.iterdir())] == [content, DICOM]


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (MULTIPART, part(b"hello"), "an image that is not DICOM"),
        (MULTIPART, part(DICOM, end=b""), "a part without an end"),
        (MULTIPART, b"no part at all", "no part"),
        (MULTIPART, b"-" * 200_000, "no beginning of a part"),
        ("multipart/related", part(DICOM), "multipart/related where an image should be"),
        ("text/html", b"<html>", "text/html where an image should be"),
        ("application/dicom", b"", "an image that is not DICOM"),
    ],
)
def test_an_object_that_is_none(
    script: Script, client: Client, tmp_path: Path, kind: str, body: bytes, message: str
) -> None:
    script.answers[OBJECTS] = (200, JSON, listed("1.4"))
    script.answers[OBJECTS + "/1.4"] = (200, kind, body)
    assert message in refusal(lambda: fetch_series(client, SERIES, tmp_path))


@pytest.mark.parametrize(("kind", "body"), [("application/dicom", DICOM), (MULTIPART, part(DICOM))])
def test_an_object_that_breaks_off(script: Script, client: Client, tmp_path: Path, kind: str, body: bytes) -> None:
    script.answers[OBJECTS] = (200, JSON, listed("1.4"))
    script.answers[OBJECTS + "/1.4"] = (200, kind, body)
    script.break_off = True
    assert "broke off" in refusal(lambda: fetch_series(client, SERIES, tmp_path))


def test_more_than_fits_is_not_written(script: Script, client: Client, tmp_path: Path) -> None:
    script.answers[OBJECTS] = (200, JSON, listed("1.4", "1.5"))
    for uid in ("1.4", "1.5"):
        script.answers[f"{OBJECTS}/{uid}"] = (200, "application/dicom", DICOM)
    assert "sends more than" in refusal(lambda: fetch_series(client, SERIES, tmp_path, left_bytes=len(DICOM) + 500))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= len(DICOM) + 500


def test_half_a_series_is_not_read(script: Script, client: Client, tmp_path: Path) -> None:
    script.answers[OBJECTS] = (200, JSON, listed("1.4", "1.5"))
    whole = RemoteSeries("1.2", "1.3", "CT", 4)
    assert "lists 2 of 4 objects" in refusal(lambda: fetch_series(client, whole, tmp_path))


@pytest.mark.parametrize("uids", [(), ("1.4", "1.4")])
def test_a_series_of_nothing_or_of_one_object_twice_is_garbage(
    script: Script, client: Client, tmp_path: Path, uids: tuple[str, ...]
) -> None:
    script.answers[OBJECTS] = (200, JSON, listed(*uids))
    assert "is no PACS" in refusal(lambda: fetch_series(client, SERIES, tmp_path))


def test_more_objects_than_any_series_has_are_not_asked_for(
    script: Script, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "MAX_OBJECTS", 2)
    script.answers[OBJECTS] = (200, JSON, listed("1.4", "1.5", "1.6"))
    assert "a series of 3 objects" in refusal(lambda: fetch_series(client, SERIES, tmp_path))
    assert len(script.asked) == 1


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = {"1.4": tmp_path / "a.dcm", "1.5": tmp_path / "b.dcm"}
    for uid, path in paths.items():
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = SegmentationStorage, uid
        dataset.save_as(path, enforce_file_format=True)
    return list(paths.values())


def said_stored(*uids: str) -> bytes:
    return json.dumps({"00081199": {"Value": [{"00081155": {"Value": [uid]}} for uid in uids]}}).encode()


def test_both_objects_are_sent_whole(script: Script, client: Client, files: list[Path]) -> None:
    script.answers["/root/studies/1.2"] = (200, JSON, said_stored("1.4", "1.5"))
    store(client, "1.2", files)
    (body,) = script.received
    assert all(file.read_bytes() in body for file in files)


@pytest.mark.parametrize(
    ("status", "body", "missing"),
    [
        (202, said_stored("1.4"), "b.dcm"),
        (409, said_stored(), "a.dcm and b.dcm"),
        (200, b"", "a.dcm and b.dcm"),
        (200, said_stored("1.4", "1.4"), "b.dcm"),
        # As many as were sent, but not these.
        (200, said_stored("1.5", "1.6"), "a.dcm"),
    ],
)
def test_what_the_pacs_does_not_name_as_stored_is_said(
    script: Script, client: Client, files: list[Path], status: int, body: bytes, missing: str
) -> None:
    script.answers["/root/studies/1.2"] = (status, JSON, body)
    said = refusal(lambda: store(client, "1.2", files), RefusedError)
    assert f"does not say that it stored {missing} of 2 objects" in said


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (507, b""), (200, b"[[1]]")])
def test_a_store_that_is_not_answered_as_by_a_pacs(
    script: Script, client: Client, files: list[Path], status: int, body: bytes
) -> None:
    script.answers["/root/studies/1.2"] = (status, JSON, body)
    with pytest.raises(CoronanetError):
        store(client, "1.2", files)


def test_a_connection_that_the_server_closed_meanwhile_is_opened_again(script: Script, client: Client) -> None:
    script.answers["/root/studies/1.2/series"] = (200, JSON, listed("1.3", tag="0020000E"))
    script.headers["Connection"] = "close"
    for _ in range(2):
        assert len(find_series(client, study="1.2")) == 1
