"""One part out of a multipart answer, however the network cuts it."""

from itertools import pairwise
from pathlib import Path

import pytest
from coronanet.serving.pacs.multipart import NotMultipartError, Upload, first_part, parse_content_type
from hypothesis import given
from hypothesis import strategies as st


@given(content=st.binary(max_size=200), cuts=st.lists(st.integers(0, 400), max_size=12))
def test_the_first_part_is_found_whatever_the_chunks(content: bytes, cuts: list[int]) -> None:
    if b"\r\n--b" in content:
        return
    head, other = b"\r\n--b\r\nContent-Type: application/dicom\r\nX: y\r\n\r\n", b"\r\n--b\r\nA: b\r\n\r\nx\r\n--b--"
    body = head + content + other
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    chunks = [body[start:end] for start, end in pairwise(edges)]
    assert b"".join(first_part(chunks, "b")) == content


def test_what_an_upload_says_of_itself_is_what_it_sends(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * 3_000_000)
    upload = Upload([tmp_path / "a", tmp_path / "b"], "xyz")
    body = b"".join(upload)
    assert len(body) == upload.length
    kind, boundary = parse_content_type(upload.content_type)
    assert kind == "multipart/related"
    assert b"".join(first_part([body], boundary)) == b"a" * 3_000_000


@pytest.mark.parametrize("body", [b"", b"--b\r\n", b"--b\r\n\r\nx", b"x" * 100])
def test_what_does_not_begin_or_end_is_refused(body: bytes) -> None:
    with pytest.raises(NotMultipartError):
        list(first_part([body], "b"))


@pytest.mark.parametrize("value", ["", "multipart/related", ";;;", 'multipart/related; boundary=""'])
def test_a_type_without_a_boundary_has_none(value: str) -> None:
    assert parse_content_type(value)[1] == ""
