"""The options of a server: TLS and keys, from files and the environment, with errors that never quote a secret."""

from pathlib import Path

import pytest
from coronanet.engines.connection_cli import KEY_VARIABLE, load_connection, read_keys
from coronanet.engines.triton_connection import Connection, Tls, parse_key
from coronanet.model.errors import UsageError

LOCAL = "127.0.0.1:8001"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def test_an_address_alone_is_an_open_connection_without_keys() -> None:
    assert load_connection(LOCAL) == Connection(LOCAL)
    assert load_connection(None) is None


def test_keys_come_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text("infer-key=one two\n\nadmin=x=y\n")
    assert read_keys(file) == (("infer-key", "one two"), ("admin", "x=y"))
    monkeypatch.setenv(KEY_VARIABLE, "infer-key=three")
    connection = load_connection(LOCAL)
    assert connection is not None
    assert connection.metadata == (("triton-grpc-protocol-infer-key", "three"),)
    assert read_keys(file)[0] == ("infer-key", "one two")


@pytest.mark.parametrize(
    "text", ["s3cret", "=s3cret", "Name=s3cret", "a b=s3cret", "name=s3cret\n", "name=\ts3cret", "n="]
)
def test_a_malformed_key_is_refused_without_being_quoted(text: str) -> None:
    with pytest.raises(UsageError, match="not NAME=VALUE") as refused:
        parse_key(text)
    assert "s3cret" not in str(refused.value)


def test_a_key_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the server key"):
        read_keys(tmp_path / "nonesuch")


def test_options_that_need_others(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="are for --server"):
        load_connection(None, tls=True)
    with pytest.raises(UsageError, match="give --tls-root PEM or --tls"):
        load_connection(LOCAL, tls_certificate=tmp_path, tls_key=tmp_path)
    with pytest.raises(UsageError, match="go together"):
        load_connection(LOCAL, tls=True, tls_key=tmp_path)


def test_files_that_are_no_pem(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory: expected a PEM file"):
        Connection(LOCAL, Tls(tmp_path / "nonesuch")).channel()
    (tmp_path / "roots").write_text("hello")
    with pytest.raises(UsageError, match="roots is not a PEM file"):
        Connection(LOCAL, Tls(tmp_path / "roots")).channel()


def test_what_leaves_this_machine_unencrypted_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    for address, warned in (("triton.example.org:8001", True), ("10.0.0.7:8001", True), ("[::1]:8001", False)):
        load_connection(address)
        assert ("is not encrypted" in capsys.readouterr().err) is warned
    load_connection("triton.example.org:8001", tls=True)
    assert "is not encrypted" not in capsys.readouterr().err
