"""Where the embedded server listens: its host, its three ports, and what may reach them."""

import ipaddress
import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

from ..model.errors import UsageError

HOST = "127.0.0.1"
#: The number that stands for "any port that is free".
ANY_PORT = 0
#: What an address that other machines can reach means, in one line, for whoever asked for it.
REMOTE_WARNING = (
    "other machines can reach this server: it is of 2024, with known vulnerabilities, asks nobody for a password and "
    "does not encrypt; only on a network that you trust, and for patients' images use NVIDIA's container behind TLS"
)
#: The same of NVIDIA's container.
CONTAINER_WARNING = (
    "other machines can reach this server, which asks nobody for a password and does not encrypt: put TLS and "
    "authentication in front of it before it gets patients' images"
)


@dataclass(frozen=True)
class Ports:
    """Triton's own defaults; ``ANY_PORT`` (0) is any that is free when the server starts."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    @classmethod
    def free(cls, host: str = HOST) -> Self:
        """Three ports that nothing uses right now; a server takes `ANY_PORTS`, which are chosen as it starts."""
        return cls(ANY_PORT, ANY_PORT, ANY_PORT).chosen(host)

    @property
    def is_open(self) -> bool:
        """Whether a port is still to be chosen."""
        return ANY_PORT in (self.http, self.grpc, self.metrics)

    def chosen(self, host: str = HOST) -> Self:
        """These ports, with a free one in the place of every ``ANY_PORT``."""
        given = (self.http, self.grpc, self.metrics)
        with ExitStack() as stack:
            # All are held until the last is found, so that none is found twice.
            found: list[int] = []
            while len(found) < given.count(ANY_PORT):
                probe = stack.enter_context(socket.socket(family(host)))
                probe.bind((host, ANY_PORT))
                port: int = probe.getsockname()[1]
                if port not in given:
                    found.append(port)
        free = iter(found)
        return type(self)(*(next(free) if port == ANY_PORT else port for port in given))


#: Each any that is free when the server starts.
ANY_PORTS = Ports(ANY_PORT, ANY_PORT, ANY_PORT)


def check_host(host: str, *, allow_remote: bool = False) -> None:
    """Refuse what is no address of this machine, and one that others could reach unless that was asked for.

    Raises:
        UsageError: ``host`` is not the address of a network interface here, or is not loopback and not allowed.
    """
    try:
        remote = not is_loopback(host)
    except ValueError:
        raise UsageError(f"--host takes an address of this machine such as {HOST}, got {host}") from None
    if remote and not allow_remote:
        raise UsageError(
            f"the embedded server listens on loopback only: expected --host {HOST}, got {host}; "
            "--allow-remote lets other machines reach it"
        )
    with socket.socket(family(host)) as probe:
        try:
            probe.bind((host, ANY_PORT))
        except OSError as error:
            raise UsageError(
                f"--host {host} is no address of this machine ({os.strerror(error.errno or 0)}): expected one, "
                f"such as {HOST}"
            ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address ``host``."""
    return ipaddress.ip_address(host).is_loopback


def check_ports(host: str, ports: Ports) -> None:
    """Refuse ports that something listens on.

    Raises:
        UsageError: a port is in use, or two are the same; names it and the option that moves it.
    """
    seen: dict[int, str] = {}
    for name in ("http", "grpc", "metrics"):
        port: int = getattr(ports, name)
        if port != ANY_PORT and port in seen:
            raise UsageError(f"--{seen[port]}-port and --{name}-port are both {port}: expected three different ports")
        seen[port] = name
        with socket.socket(family(host)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise UsageError(
                    f"port {port} on {host} cannot be used ({os.strerror(error.errno or 0)}): "
                    f"stop what listens there, or choose another with --{name}-port (0: any that is free)"
                ) from None


def join(host: str, port: int) -> str:
    """``HOST:PORT``, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def here(host: str) -> str:
    """The address at which this machine itself reaches a server that listens on ``host``."""
    return {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # noqa: S104 - compared with, not bound to


def family(host: str) -> socket.AddressFamily:
    """Of a socket that listens on the address ``host``."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
