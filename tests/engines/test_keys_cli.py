"""`coronanet keygen` as a person and a program see it."""

import json
import sys
from pathlib import Path

import pytest
from coronanet.cli import main
from coronanet.engines.keys import PublicKey, SigningKey


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0)


def test_keygen_says_where_the_two_files_are_and_how_the_key_is_called(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("keygen", "--out", str(tmp_path / "keys"), "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"fingerprint", "private_key", "public_key"}
    assert PublicKey.load(Path(answer["public_key"])).fingerprint == answer["fingerprint"]
    assert SigningKey.load(Path(answer["private_key"])).public.fingerprint == answer["fingerprint"]


def test_keygen_tells_people_which_file_is_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keygen", "--out", str(tmp_path)) == 0
    shown = capsys.readouterr().out
    assert "keep it secret" in shown
    assert "PRIVATE KEY" not in shown


def test_a_second_keygen_into_the_same_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keygen", "--out", str(tmp_path)) == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    capsys.readouterr()
    assert run("keygen", "--out", str(tmp_path)) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["keygen", "--out", "keys"],
        ["export", "--sign", "key.pem"],
        ["verify", "bundle", "--key", "key.pem"],
        ["serve", "--require-signature", "key.pem"],
        ["repository", "--require-signature", "key.pem"],
        ["predict", "input.nii", "--out", "out", "--require-signature", "key.pem"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_cryptography_every_verb_with_a_key_names_the_extra(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "coronanet.engines.keys")
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    assert run(*arguments) == 2
    assert "pip install 'coronanet[sign]'" in capsys.readouterr().err
