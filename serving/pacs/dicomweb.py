"""What is asked of a PACS: search for a study's series (QIDO-RS), fetch one (WADO-RS), store objects (STOW-RS).

DICOM PS3.18, 10. Objects go to files as they came: they are parsed by the readers, which believe no header.
"""

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...model.errors import RefusedError, UsageError
from ...model.readers.dicom.files import parse_header
from ...model.readers.dicom.headers import short_hash
from .http import MAX_JSON, Client
from .multipart import NotMultipartError, Upload, first_part, parse_content_type

#: Of all that is fetched for a study.
MAX_BYTES = 8 * 2**30
MAX_OBJECTS = 20_000
#: Attributes by tag, as DICOM's JSON names them (PS3.18, F.2).
_STUDY, _SERIES, _OBJECT, _MODALITY, _OBJECTS_IN_SERIES = "0020000D", "0020000E", "00080018", "00080060", "00201209"
_STORED, _STORED_UID = "00081199", "00081155"
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass(frozen=True)
class RemoteSeries:
    """A series of a study as the PACS lists it; ``objects`` None where it does not count them."""

    study: str
    uid: str
    modality: str
    objects: int | None


def check_uid(text: str, option: str) -> str:
    """
    Raises:
        UsageError: not a UID (PS3.5, 9.1).
    """
    if len(text) > 64 or not _UID.fullmatch(text):
        raise UsageError(f"{option} is no UID: expected at most 64 digits and dots, as in 1.2.840.113619.2.5")
    return text


def find_series(client: Client, *, study: str | None = None, series: str | None = None) -> list[RemoteSeries]:
    """The series of a study, or the one with a UID.

    Raises:
        UsageError: the PACS has none, or does not answer as one.
    """
    path = f"/studies/{study}/series" if study else f"/series?SeriesInstanceUID={series}"
    found = [
        RemoteSeries(
            study or _uid(client, entry, _STUDY),
            _uid(client, entry, _SERIES),
            _modality(_value(entry, _MODALITY)),
            _count(_value(entry, _OBJECTS_IN_SERIES)),
        )
        for entry in client.get_json(f"{path}{'&' if '?' in path else '?'}includefield={_OBJECTS_IN_SERIES}")
    ]
    # A server that does not know a filter may leave it out.
    found = [each for each in found if series in (None, each.uid)]
    if not found:
        what = f"series {short_hash(series)}" if series else f"study {short_hash(study or '')}"
        raise UsageError(f"the PACS at {client.address} has no {what}: check the UID (its hash is shown)")
    return found


def fetch_series(client: Client, series: RemoteSeries, folder: Path, *, left_bytes: int = MAX_BYTES) -> int:
    """Every object of a series as a file in ``folder``; how many bytes they take.

    Raises:
        UsageError: the PACS does not send all of them, more than it may, or something else.
    """
    path = f"/studies/{series.study}/series/{series.uid}/instances"
    uids = [_uid(client, entry, _OBJECT) for entry in client.get_json(path)]
    if len(set(uids)) != len(uids) or not 0 < len(uids) <= MAX_OBJECTS:
        raise client.garbage(f"a series of {len(uids)} objects")
    if series.objects is not None and len(uids) < series.objects:
        raise UsageError(
            f"the PACS at {client.address} lists {len(uids)} of {series.objects} objects of series "
            f"{short_hash(series.uid)}: half a series is not read"
        )
    folder.mkdir(parents=True, exist_ok=True)
    received = 0
    for number, uid in enumerate(uids):
        received += _fetch(
            client, f"{path}/{uid}", folder / f"{short_hash(series.uid)}-{number:05d}", left_bytes - received
        )
    return received


def store(client: Client, study: str, files: Sequence[Path]) -> None:
    """Put objects into a study of the PACS, which must name each of them as stored.

    Raises:
        RefusedError: it did not take all of them; the line says which, by their files.
        UsageError: it does not answer as a PACS.
    """
    upload = Upload(files, secrets.token_hex(16))
    headers = {
        "Content-Type": upload.content_type,
        "Content-Length": str(upload.length),
        "Accept": "application/dicom+json",
    }
    with client.request("POST", f"/studies/{study}", headers, upload, expected=(200, 202, 409)) as answer:
        text = b"".join(client.chunks(answer, MAX_JSON))
    try:
        said: Any = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        raise client.garbage("no JSON") from None
    stored = {str(_value(entry, _STORED_UID)) for entry in _sequence(said, _STORED)}
    sent = {file.name: str(parse_header(file, ["SOPInstanceUID"]).SOPInstanceUID) for file in files}
    if missing := [name for name, uid in sent.items() if uid not in stored]:
        raise RefusedError(
            f"the PACS at {client.address} does not say that it stored {' and '.join(missing)} of {len(files)} "
            f"objects; all of them are in {files[0].parent}"
        )


def _fetch(client: Client, path: str, file: Path, limit: int) -> int:
    with client.request("GET", path, {"Accept": _AS_STORED}) as answer:
        media_type, boundary = parse_content_type(answer.headers.get("Content-Type", ""))
        chunks = client.chunks(answer, limit)
        try:
            if media_type == "multipart/related" and boundary:
                chunks = first_part(chunks, boundary)
            elif media_type != "application/dicom":
                raise client.garbage(f"{media_type} where an image should be")
            with file.open("wb") as out:
                for chunk in chunks:
                    out.write(chunk)
        except NotMultipartError as error:
            raise client.garbage(str(error)) from None
    with file.open("rb") as written:
        if written.read(132)[128:] != b"DICM":
            raise client.garbage("an image that is not DICOM")
    return file.stat().st_size


def _sequence(entry: Any, tag: str) -> list[Any]:
    element = entry.get(tag) if isinstance(entry, dict) else None
    values = element.get("Value") if isinstance(element, dict) else None
    return values if isinstance(values, list) else []


def _value(entry: Any, tag: str) -> Any:
    return next(iter(_sequence(entry, tag)), None)


def _uid(client: Client, entry: Any, tag: str) -> str:
    uid = _value(entry, tag)
    if not isinstance(uid, str) or len(uid) > 64 or not _UID.fullmatch(uid):
        raise client.garbage("a list without UIDs")
    return uid


def _modality(found: Any) -> str:
    return found if isinstance(found, str) and re.fullmatch(r"[A-Z0-9]{2,16}", found) else ""


def _count(found: Any) -> int | None:
    text = str(found)
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None
