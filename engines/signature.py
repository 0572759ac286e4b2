"""``manifest.sig``: who says that a manifest is theirs.

To read it needs no cryptography and proves nothing; `keys.PublicKey.check` proves it.
"""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from ..model.card import StrictModel, explain
from ..model.errors import RefusedError

SIGNATURE = "manifest.sig"
#: The DER that stands before the 32 bytes of every Ed25519 public key (RFC 8410, section 4), in hexadecimal.
ED25519_DER = "302a300506032b6570032100"
MAX_BYTES = 4096


class Signature(StrictModel):
    """``manifest.sig``, all bytes in hexadecimal.

    ``public_key`` is the signer's, as DER (RFC 8410); ``signature`` is Ed25519 (RFC 8032) over the exact bytes of
    ``manifest.json``.
    """

    schema_version: Literal[1] = 1
    algorithm: Literal["ed25519"] = "ed25519"
    public_key: Annotated[str, Field(pattern=f"^{ED25519_DER}[0-9a-f]{{64}}$")]
    signature: Annotated[str, Field(pattern="^[0-9a-f]{128}$")]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key that claims to have signed."""
        return fingerprint(bytes.fromhex(self.public_key))

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def fingerprint(der: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of a public key in DER, short enough to be read aloud.

    ``openssl pkey -pubin -in coronanet-public.pem -outform DER | sha256sum`` begins with the same ones.
    """
    return hashlib.sha256(der).hexdigest()[:16]


def read_signature(folder: Path) -> Signature | None:
    """What stands in the ``manifest.sig`` of a bundle, None where there is none.

    Raises:
        RefusedError: it is cut short, or anything else than a signature.
    """
    path = folder / SIGNATURE
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES:
        raise RefusedError(f"{path} is not a signature: expected at most {MAX_BYTES} bytes, got {path.stat().st_size}")
    try:
        return Signature.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RefusedError(
            f"{path} is not a signature: {explain(error)}: get the bundle again from its signer"
        ) from None
