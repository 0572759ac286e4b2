"""A signed bundle is its signer's to the last byte, or refused by name."""

import base64
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from coronanet.engines.bundle import MANIFEST, Bundle
from coronanet.engines.keys import PublicKey, SigningKey, write_key_pair
from coronanet.engines.signature import SIGNATURE
from coronanet.model.errors import RefusedError

NAMES = ("card.json", "weights.safetensors", "sbom.json", "preprocess.onnx", "decide.onnx", "network.fp32.onnx")


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    private, _ = write_key_pair(tmp_path_factory.mktemp("signer"))
    return SigningKey.load(private)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    private, _ = write_key_pair(tmp_path_factory.mktemp("stranger"))
    return SigningKey.load(private)


@pytest.fixture
def signed(tiny_bundle: Bundle, signer: SigningKey, tmp_path: Path) -> Path:
    """A signed copy of the tiny bundle, to be tampered with."""
    folder = tmp_path / "signed"
    shutil.copytree(tiny_bundle.path, folder)
    sign(folder, signer)
    return folder


def sign(folder: Path, key: SigningKey) -> None:
    (folder / SIGNATURE).write_text(key.sign((folder / MANIFEST).read_bytes()).to_json())


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def rewrite_hash(folder: Path, name: str) -> None:
    """What a forger does who knows that the manifest has hashes."""
    manifest = json.loads((folder / MANIFEST).read_text())
    (record,) = (file for file in manifest["files"] if file["path"] == name)
    content = (folder / name).read_bytes()
    record |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_a_bundle_opens_with_the_key_that_signed_it(signed: Path, signer: SigningKey) -> None:
    bundle = Bundle.open(signed, key=signer.public)
    assert bundle.signature is not None
    assert bundle.signature.fingerprint == signer.public.fingerprint
    assert bundle.is_signature_checked


def test_without_a_key_a_signature_is_reported_and_not_trusted(signed: Path, signer: SigningKey) -> None:
    bundle = Bundle.open(signed)
    assert bundle.signature is not None
    assert bundle.signature.fingerprint == signer.public.fingerprint
    assert not bundle.is_signature_checked


def test_the_files_that_are_flipped_below_are_all_that_a_signed_bundle_has(signed: Path) -> None:
    assert {path.name for path in signed.iterdir()} == {*NAMES, MANIFEST, SIGNATURE}


@pytest.mark.parametrize("name", NAMES)
def test_one_flipped_byte_in_any_file_is_refused_by_name(signed: Path, signer: SigningKey, name: str) -> None:
    flip(signed / name, (signed / name).stat().st_size // 2)
    with pytest.raises(RefusedError, match=rf"{name} was changed after export"):
        Bundle.open(signed, key=signer.public)


def test_one_flipped_byte_anywhere_in_the_manifest_is_refused(signed: Path, signer: SigningKey) -> None:
    original = (signed / MANIFEST).read_bytes()
    for position in range(0, len(original), len(original) // 40):
        flip(signed / MANIFEST, position)
        with pytest.raises(RefusedError, match="does not fit its manifest"):
            Bundle.open(signed, key=signer.public)
        (signed / MANIFEST).write_bytes(original)


def test_one_flipped_byte_anywhere_in_the_signature_is_refused(signed: Path, signer: SigningKey) -> None:
    original = (signed / SIGNATURE).read_bytes()
    for position in range(len(original.rstrip())):
        flip(signed / SIGNATURE, position)
        # A space may become a tab or the like, which JSON takes for the same.
        if json_or_none(signed / SIGNATURE) != json.loads(original):
            with pytest.raises(RefusedError, match=r"not a signature|does not fit|signed with key"):
                Bundle.open(signed, key=signer.public)
        (signed / SIGNATURE).write_bytes(original)


def json_or_none(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


def test_two_swapped_files_are_refused(signed: Path, signer: SigningKey) -> None:
    one, other = signed / "preprocess.onnx", signed / "decide.onnx"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(RefusedError, match=r"preprocess\.onnx was changed after export"):
        Bundle.open(signed, key=signer.public)


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_gone_is_refused_by_name(signed: Path, signer: SigningKey, name: str) -> None:
    (signed / name).unlink()
    with pytest.raises(RefusedError, match=rf"{name} is missing"):
        Bundle.open(signed, key=signer.public)


@pytest.mark.parametrize("name", ["network.int8.onnx", "manifest.sig.bak", "plans/sm86.plan"])
def test_a_file_that_is_added_is_refused_by_name(signed: Path, signer: SigningKey, name: str) -> None:
    (signed / name).parent.mkdir(exist_ok=True)
    (signed / name).write_bytes(b"")
    with pytest.raises(RefusedError, match=rf"{name} is not in the manifest"):
        Bundle.open(signed, key=signer.public)


def test_an_edited_card_with_its_hash_recomputed_fails_on_the_signature(signed: Path, signer: SigningKey) -> None:
    card = (signed / "card.json").read_text()
    (signed / "card.json").write_text(card.replace('"threshold": 0.5', '"threshold": 0.1'))
    rewrite_hash(signed, "card.json")
    assert Bundle.open(signed).card.threshold == 0.1, "hashes alone do not see it"
    with pytest.raises(RefusedError, match="does not fit its manifest"):
        Bundle.open(signed, key=signer.public)


def test_the_signature_is_looked_at_before_the_manifest_is_read(signed: Path, signer: SigningKey) -> None:
    (signed / MANIFEST).write_text("not even JSON")
    with pytest.raises(RefusedError, match="does not fit its manifest"):
        Bundle.open(signed, key=signer.public)


def test_another_key_is_named_beside_the_one_that_was_expected(
    signed: Path, signer: SigningKey, stranger: SigningKey
) -> None:
    sign(signed, stranger)
    theirs, ours = stranger.public.fingerprint, signer.public.fingerprint
    with pytest.raises(RefusedError, match=rf"was signed with key {theirs}, expected key {ours}"):
        Bundle.open(signed, key=signer.public)


def test_a_stranger_who_claims_to_be_the_signer_is_refused(
    signed: Path, signer: SigningKey, stranger: SigningKey
) -> None:
    sign(signed, stranger)
    forged = json.loads((signed / SIGNATURE).read_text())
    forged["public_key"] = signer.sign(b"").public_key
    (signed / SIGNATURE).write_text(json.dumps(forged))
    with pytest.raises(RefusedError, match="does not fit its manifest"):
        Bundle.open(signed, key=signer.public)


def test_a_bundle_without_its_signature_is_refused(signed: Path, signer: SigningKey) -> None:
    (signed / SIGNATURE).unlink()
    with pytest.raises(RefusedError, match=rf"is not signed, expected .* {signer.public.fingerprint}.*export --sign"):
        Bundle.open(signed, key=signer.public)


def test_the_signature_of_another_bundle_is_refused(signed: Path, signer: SigningKey) -> None:
    (signed / SIGNATURE).write_text(signer.sign(b"another manifest").to_json())
    with pytest.raises(RefusedError, match="does not fit its manifest"):
        Bundle.open(signed, key=signer.public)


@pytest.mark.parametrize("length", [0, 1, 100, 250])
def test_a_truncated_signature_is_refused_with_and_without_a_key(signed: Path, signer: SigningKey, length: int) -> None:
    (signed / SIGNATURE).write_bytes((signed / SIGNATURE).read_bytes()[:length])
    for key in (signer.public, None):
        with pytest.raises(RefusedError, match=r"manifest\.sig is not a signature"):
            Bundle.open(signed, key=key)


def test_a_signature_of_a_size_that_none_has_is_refused_unread(signed: Path) -> None:
    with (signed / SIGNATURE).open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RefusedError, match="at most 4096 bytes"):
        Bundle.open(signed)


def test_a_short_signature_value_is_refused(signed: Path, signer: SigningKey) -> None:
    content = json.loads((signed / SIGNATURE).read_text())
    (signed / SIGNATURE).write_text(json.dumps({**content, "signature": content["signature"][:-2]}))
    with pytest.raises(RefusedError, match=r"manifest\.sig is not a signature: signature:"):
        Bundle.open(signed, key=signer.public)


def test_the_fingerprint_is_that_of_the_key_as_openssl_writes_it(tmp_path: Path) -> None:
    _, public = write_key_pair(tmp_path)
    lines = public.read_text().splitlines()
    der = base64.b64decode("".join(lines[1:-1]))
    assert PublicKey.load(public).fingerprint == hashlib.sha256(der).hexdigest()[:16]
