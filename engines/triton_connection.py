"""Where a Triton server is and how it is spoken to: address, TLS, and the keys of its restricted protocols."""

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc

from ..model.errors import UsageError

ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):(?P<port>\d{1,5})")
#: What Triton puts before the name of a restricted protocol's key.
KEY_PREFIX = "triton-grpc-protocol-"
#: gRPC's metadata: lower case names, printable ASCII values.
KEY = re.compile(r"(?P<name>[0-9a-z_.-]+)=(?P<value>[\x21-\x7e][\x20-\x7e]*)")
OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # Images go to the address that was given, never through a proxy from the environment.
    ("grpc.enable_http_proxy", 0),
    # A name with several addresses (a Kubernetes headless service) is several servers that share the work.
    ("grpc.lb_policy_name", "round_robin"),
    # gRPC's own pauses grow to two minutes; a server that restarts is back in seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


@dataclass(frozen=True)
class Tls:
    """PEM files of a connection that is encrypted.

    Attributes:
        roots: the certificates of who may vouch for the server; None: those that gRPC ships.
        certificate, key: who the client is, for a server that asks; both or neither.
    """

    roots: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) is not (self.key is None):
            raise UsageError("a client certificate and its private key go together: expected both or neither")

    def credentials(self) -> Any:
        """gRPC's credentials.

        Raises:
            UsageError: a file is missing or is not PEM.
        """
        roots, key, certificate = (_read_pem(path) for path in (self.roots, self.key, self.certificate))
        return grpc.ssl_channel_credentials(roots, key, certificate)


@dataclass(frozen=True)
class Connection:
    """A Triton server's gRPC endpoint, not yet connected.

    Attributes:
        address: ``HOST:PORT``.
        tls: how the connection is encrypted; None: it is not.
        keys: name and value of the keys of restricted protocols, as in Triton's ``--grpc-restricted-protocol``.

    Raises:
        UsageError: the address does not read ``HOST:PORT``, or a key cannot be a header.
    """

    address: str
    tls: Tls | None = None
    keys: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_address(self.address)
        for name, value in self.keys:
            parse_key(f"{name}={value}")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return tuple((KEY_PREFIX + name, value) for name, value in self.keys)

    @property
    def is_local(self) -> bool:
        """Whether the address can only be this machine."""
        host = self.address.rpartition(":")[0].strip("[]")
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def channel(self) -> Any:
        """A ``grpc.Channel``, which connects when it is used."""
        if self.tls is None:
            return grpc.insecure_channel(self.address, options=OPTIONS)
        return grpc.secure_channel(self.address, self.tls.credentials(), options=OPTIONS)

    def aio_channel(self) -> Any:
        """A ``grpc.aio.Channel`` of the running event loop."""
        if self.tls is None:
            return grpc.aio.insecure_channel(self.address, options=OPTIONS)
        return grpc.aio.secure_channel(self.address, self.tls.credentials(), options=OPTIONS)


def as_connection(server: "str | Connection") -> Connection:
    """``HOST:PORT`` as an unencrypted connection; a connection as it is."""
    return server if isinstance(server, Connection) else Connection(server)


def check_address(address: str) -> str:
    """``address`` if it reads ``HOST:PORT``.

    Raises:
        UsageError: it does not.
    """
    match = ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 2**16:
        raise UsageError(f"'{address}' is not the address of a server: expected HOST:PORT, such as 127.0.0.1:8001")
    return address


def parse_key(text: str) -> tuple[str, str]:
    """Name and value of ``NAME=VALUE``; an error never quotes the value.

    Raises:
        UsageError: it does not read so, or gRPC cannot carry it.
    """
    match = KEY.fullmatch(text)
    if match is None:
        raise UsageError(
            "a server key is not NAME=VALUE, with lower case letters, digits, '_', '-' and '.' in the name "
            "and printable ASCII in the value: take it from the server's --grpc-restricted-protocol"
        )
    return match["name"], match["value"]


def _read_pem(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}: expected a PEM file") from None
    if b"-----BEGIN " not in text:
        raise UsageError(f"{path} is not a PEM file: expected '-----BEGIN' in it")
    return text
