"""`--server` of every verb that asks one: its address, TLS, and the key of its restricted protocols."""

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import warn
from ..model.errors import MissingPackageError, UsageError

if TYPE_CHECKING:
    from .triton_connection import Connection

KEY_VARIABLE = "CORONANET_SERVER_KEY"

ServerOption = Annotated[
    str | None,
    typer.Option("--server", metavar="HOST:PORT", help="gRPC address of a server to ask, e.g. 127.0.0.1:8001."),
]
TlsOption = Annotated[bool, typer.Option("--tls", help="Encrypt; the server's certificate is of a public authority.")]
TlsRootOption = Annotated[
    Path | None,
    typer.Option(
        "--tls-root", metavar="PEM", help="Encrypt; the server's certificate is of the authority in this file."
    ),
]
TlsCertificateOption = Annotated[
    Path | None, typer.Option("--tls-certificate", metavar="PEM", help="Our certificate, for a server that asks.")
]
TlsKeyOption = Annotated[Path | None, typer.Option("--tls-key", metavar="PEM", help="Its private key.")]
ServerKeyOption = Annotated[
    Path | None,
    typer.Option(
        "--server-key",
        metavar="FILE",
        help=f"NAME=VALUE of the server's restricted protocols, a line each; else in the variable {KEY_VARIABLE}.",
    ),
]


def load_connection(
    server: str | None,
    *,
    tls: bool = False,
    tls_root: Path | None = None,
    tls_certificate: Path | None = None,
    tls_key: Path | None = None,
    server_key: Path | None = None,
) -> "Connection | None":
    """The connection that the options describe; None where there is no ``--server``.

    Raises:
        MissingPackageError: the client of Triton is not installed.
        UsageError: an option without those that it needs, a malformed address, or a key that cannot be read.
    """
    encrypted = tls or tls_root is not None
    if server is None:
        if encrypted or tls_certificate or tls_key or server_key:
            raise UsageError("--tls, --tls-root, --tls-certificate, --tls-key and --server-key are for --server")
        return None
    if not encrypted and (tls_certificate or tls_key):
        raise UsageError(
            "--tls-certificate and --tls-key are for an encrypted connection: give --tls-root PEM or --tls"
        )
    for package in ("grpc", "tritonclient"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package, purpose="asking a server", extra="serve")
    from .triton_connection import Connection, Tls

    ways = Tls(tls_root, tls_certificate, tls_key) if encrypted else None
    connection = Connection(server, ways, read_keys(server_key))
    if ways is None and not connection.is_local:
        warn(f"what is sent to {server} is not encrypted: give --tls-root PEM or --tls where the server speaks TLS")
    return connection


def read_keys(file: Path | None) -> tuple[tuple[str, str], ...]:
    """The keys in a file, else in the environment; a secret never comes from a command line, which others can see.

    Raises:
        UsageError: the file cannot be read, or a line is not ``NAME=VALUE``.
    """
    from .triton_connection import parse_key

    try:
        text = os.environ.get(KEY_VARIABLE, "") if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the server key in {file} ({error}): expected lines NAME=VALUE") from None
    return tuple(parse_key(line) for line in map(str.strip, text.splitlines()) if line)
