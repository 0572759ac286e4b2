"""Key files: made once, kept private, and read only where they are what they should be."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from coronanet.engines.keys import PRIVATE, PUBLIC, PublicKey, SigningKey, write_key_pair
from coronanet.engines.signature import SIGNATURE
from coronanet.model.errors import RefusedError, UsageError
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

PEM, PKCS8, SPKI = Encoding.PEM, PrivateFormat.PKCS8, PublicFormat.SubjectPublicKeyInfo


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return write_key_pair(tmp_path / "keys")


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def private_file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = tmp_path / "other.pem"
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path

    return write


def test_what_one_key_signs_its_public_half_accepts(pair: tuple[Path, Path]) -> None:
    private, public = pair
    signature = SigningKey.load(private).sign(b"manifest")
    PublicKey.load(public).check(b"manifest", signature, origin=Path("bundle"))
    with pytest.raises(RefusedError, match="does not fit"):
        PublicKey.load(public).check(b"Manifest", signature, origin=Path("bundle"))


def test_the_private_file_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private, _ = write_key_pair(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_every_key_is_another(tmp_path: Path) -> None:
    prints = {PublicKey.load(write_key_pair(tmp_path / name)[1]).fingerprint for name in "abc"}
    assert len(prints) == 3


@pytest.mark.parametrize("name", [PRIVATE, PUBLIC])
def test_a_key_is_never_overwritten_and_no_half_of_a_pair_is_left(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(UsageError, match=rf"{name} is there already, and a key is never overwritten"):
        write_key_pair(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_a_link_to_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / PRIVATE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="never overwritten"):
        write_key_pair(tmp_path / "keys")
    assert not (tmp_path / "elsewhere").exists()


def test_a_private_key_that_others_may_read_is_refused_with_the_command(pair: tuple[Path, Path]) -> None:
    pair[0].chmod(0o640)
    with pytest.raises(UsageError, match=r"\(mode 640\): chmod 600 "):
        SigningKey.load(pair[0])


def test_an_rsa_key_is_of_another_algorithm(rsa_key: rsa.RSAPrivateKey, private_file: Callable[[bytes], Path]) -> None:
    with pytest.raises(UsageError, match="another algorithm: expected Ed25519"):
        SigningKey.load(private_file(rsa_key.private_bytes(PEM, PKCS8, NoEncryption())))
    with pytest.raises(UsageError, match="another algorithm: expected Ed25519"):
        PublicKey.load(private_file(rsa_key.public_key().public_bytes(PEM, SPKI)))


def test_a_key_behind_a_passphrase_says_so(private_file: Callable[[bytes], Path]) -> None:
    locked = Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(UsageError, match="locked with a passphrase"):
        SigningKey.load(private_file(locked))


def test_the_two_halves_taken_for_each_other_are_named(pair: tuple[Path, Path]) -> None:
    private, public = pair
    with pytest.raises(UsageError, match="holds a private key: expected the public one"):
        PublicKey.load(private)
    public.chmod(0o600)
    with pytest.raises(UsageError, match="holds no private key"):
        SigningKey.load(public)


@pytest.mark.parametrize("load", [PublicKey.load, SigningKey.load])
@pytest.mark.parametrize("content", [b"", b"hello", b"-----BEGIN PUBLIC KEY-----\nAAAA\n", b"\xff" * 100])
def test_a_file_that_holds_no_key_is_named(
    load: Callable[[Path], object], content: bytes, private_file: Callable[[bytes], Path]
) -> None:
    with pytest.raises(UsageError, match=r"other\.pem holds no (public|private) key in PEM"):
        load(private_file(content))


@pytest.mark.parametrize("load", [PublicKey.load, SigningKey.load])
def test_a_key_that_is_not_there_or_is_a_folder_is_named(load: Callable[[Path], object], tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.pem", tmp_path):
        with pytest.raises(UsageError, match=rf"no key at {path}.*coronanet keygen"):
            load(path)


@pytest.mark.parametrize("load", [PublicKey.load, SigningKey.load])
def test_a_key_that_cannot_be_read_is_named(load: Callable[[Path], object]) -> None:
    # A file that not even root reads from its start.
    with pytest.raises(UsageError, match="cannot read the key /proc/self/mem: Input/output error"):
        load(Path("/proc/self/mem"))


def test_a_file_larger_than_any_key_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.pem").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UsageError, match="larger than any key"):
        PublicKey.load(tmp_path / "huge.pem")


def test_openssl_accepts_the_keys_and_the_signature(pair: tuple[Path, Path], tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to compare with")
    private, public = pair
    (tmp_path / "manifest.json").write_bytes(b"{}")
    (tmp_path / SIGNATURE).write_bytes(bytes.fromhex(SigningKey.load(private).sign(b"{}").signature))
    command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", str(public), "-rawin"]
    command += ["-in", str(tmp_path / "manifest.json"), "-sigfile", str(tmp_path / SIGNATURE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
