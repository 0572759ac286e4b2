"""`coronanet keygen`, and the keys that other verbs are given."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import JsonOption, emit_json, out
from ..model.errors import MissingPackageError
from .bundle import Bundle

if TYPE_CHECKING:
    from .keys import PublicKey, SigningKey

RequireSignatureOption = Annotated[
    Path | None,
    typer.Option("--require-signature", metavar="PUBLIC_KEY", help="Run only bundles that this key signed."),
]


def register(app: typer.Typer) -> None:
    app.command("keygen")(keygen_verb)


def keygen_verb(
    *,
    folder: Annotated[Path, typer.Option("--out", help="Where the two files go.")],
    as_json: JsonOption = False,
) -> None:
    """Make a key pair to sign bundles with: a private file for you alone, a public one for everybody."""
    try:
        from .keys import PublicKey, write_key_pair
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    private, public = write_key_pair(folder)
    name = PublicKey.load(public).fingerprint
    if as_json:
        emit_json({"fingerprint": name, "private_key": str(private), "public_key": str(public)})
        return
    out.print(f"key {name}")
    out.print(f"private: {private} (keep it secret: `coronanet export --sign`)", soft_wrap=True, markup=False)
    out.print(f"public: {public} (give it away: `coronanet verify --key`)", soft_wrap=True, markup=False)


def load_public_key(path: Path | None) -> "PublicKey | None":
    """The key of an option that may be left out.

    Raises:
        MissingPackageError: cryptography is not installed.
        UsageError: as ``PublicKey.load``.
    """
    if path is None:
        return None
    try:
        from .keys import PublicKey
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return PublicKey.load(path)


def load_signing_key(path: Path | None) -> "SigningKey | None":
    """As ``load_public_key``, for the key that signs."""
    if path is None:
        return None
    try:
        from .keys import SigningKey
    except ModuleNotFoundError as error:
        raise _missing(error) from None
    return SigningKey.load(path)


def signature_line(bundle: Bundle) -> str:
    """Who signed a bundle, and whether that was checked, for people."""
    if bundle.signature is None:
        return "not signed"
    name = bundle.signature.fingerprint
    if bundle.is_signature_checked:
        return f"signed with key {name}: the signature fits"
    return f"says that key {name} signed it, which was not checked: pass --key PUBLIC_KEY"


def signature_json(bundle: Bundle) -> dict[str, object] | None:
    """The same for programs; None where there is no signature."""
    if bundle.signature is None:
        return None
    return {"key": bundle.signature.fingerprint, "checked": bundle.is_signature_checked}


def _missing(error: ModuleNotFoundError) -> MissingPackageError:
    return MissingPackageError(error.name or "cryptography", purpose="signing", extra="sign")
