"""Ed25519 keys: PEM files as openssl reads them, a signature over a manifest, and its proof."""

import os
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from ..model.errors import RefusedError, UsageError
from .signature import Signature, fingerprint

PRIVATE = "coronanet-private.pem"
PUBLIC = "coronanet-public.pem"
MAX_BYTES = 65536


class PublicKey:
    """The key that says whether a bundle is its owner's."""

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self._der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a PEM file (SubjectPublicKeyInfo).

        Raises:
            UsageError: the file cannot be read, or holds anything else than an Ed25519 public key.
        """
        text = _read(path)
        if b"PRIVATE KEY" in text:
            raise UsageError(f"{path} holds a private key: expected the public one beside it, such as {PUBLIC}")
        try:
            key = load_pem_public_key(text)
        except (ValueError, UnsupportedAlgorithm):
            raise UsageError(f"{path} holds no public key in PEM: expected {PUBLIC} of `coronanet keygen`") from None
        if not isinstance(key, Ed25519PublicKey):
            raise UsageError(
                f"{path} holds a key of another algorithm: expected Ed25519, as `coronanet keygen` makes it"
            )
        return cls(key)

    @property
    def fingerprint(self) -> str:
        return fingerprint(self._der)

    def check(self, manifest: bytes, signature: Signature | None, *, origin: Path) -> None:
        """Accept the signature over exactly these bytes; ``origin`` names the bundle in the error.

        Raises:
            RefusedError: there is no signature, it is of another key, or it does not fit the manifest.
        """
        if signature is None:
            raise RefusedError(
                f"{origin} is not signed, expected the signature of key {self.fingerprint}: "
                "its owner signs it with `coronanet export --sign`"
            )
        if signature.public_key != self._der.hex():
            raise RefusedError(
                f"{origin} was signed with key {signature.fingerprint}, expected key {self.fingerprint}: "
                "get the bundle from the owner of that key, or name the other key if you trust it"
            )
        try:
            self._key.verify(bytes.fromhex(signature.signature), manifest)
        except InvalidSignature:
            raise RefusedError(
                f"the signature of {origin} does not fit its manifest: one of them was changed after key "
                f"{self.fingerprint} signed: get the bundle again from its signer"
            ) from None


class SigningKey:
    """The private half, which signs."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a PEM file (PKCS8, no passphrase) that nobody but its owner may read.

        Raises:
            UsageError: the file cannot be read, can be read by others, or holds anything else than such a key.
        """
        text = _read(path)
        if (mode := path.stat().st_mode & 0o777) & 0o077:
            raise UsageError(f"{path} may be used by others (mode {mode:o}): chmod 600 {path}")
        try:
            key = load_pem_private_key(text, password=None)
        except TypeError:
            raise UsageError(f"{path} is locked with a passphrase: expected {PRIVATE} of `coronanet keygen`") from None
        except (ValueError, UnsupportedAlgorithm):
            raise UsageError(f"{path} holds no private key in PEM: expected {PRIVATE} of `coronanet keygen`") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise UsageError(
                f"{path} holds a key of another algorithm: expected Ed25519, as `coronanet keygen` makes it"
            )
        return cls(key)

    @property
    def public(self) -> PublicKey:
        return PublicKey(self._key.public_key())

    def sign(self, manifest: bytes) -> Signature:
        """The content of ``manifest.sig`` for exactly these bytes."""
        der = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return Signature(public_key=der.hex(), signature=self._key.sign(manifest).hex())


def write_key_pair(folder: Path) -> tuple[Path, Path]:
    """Make a key; its private file (mode 0600) and its public one, neither of which was there before.

    Raises:
        UsageError: a file of that name is there, which is never overwritten.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    folder.mkdir(parents=True, exist_ok=True)
    _create(folder / PUBLIC, public, 0o644)
    try:
        _create(folder / PRIVATE, private, 0o600)
    except (OSError, UsageError):
        (folder / PUBLIC).unlink()
        raise
    return folder / PRIVATE, folder / PUBLIC


def _create(path: Path, content: bytes, mode: int) -> None:
    """Write a new file whole, or none."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise UsageError(f"{path} is there already, and a key is never overwritten: name another folder") from None
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
    except OSError:
        path.unlink()
        raise


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UsageError(f"no key at {path}: expected a PEM file, as `coronanet keygen` writes it")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the key {path}: {error.strerror}") from None
    if len(text) > MAX_BYTES:
        raise UsageError(f"{path} is larger than any key: expected a PEM file of at most {MAX_BYTES} bytes")
    return text
