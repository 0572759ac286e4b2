"""Where a PACS is, and who asks: credentials come from the environment alone and go nowhere but to it."""

import base64
import os
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import quote, urlsplit

from ...model.errors import UsageError

#: What a path may hold as it is, and the percents of what is already written so (RFC 3986, 3.3).
_IN_PATHS = "/%:@!$&'()*+,;=~"
USER, PASSWORD = "CORONANET_PACS_USER", "CORONANET_PACS_PASSWORD"


@dataclass(frozen=True)
class Address:
    """The DICOMweb root of a PACS; ``authorisation`` is the header's value, None without credentials."""

    host: str
    port: int
    path: str
    encrypted: bool
    authorisation: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(url: str, *, allow_http: bool = False) -> Address:
    """The address in a URL such as ``https://pacs.example/dicom-web``, with the credentials of the environment.

    Args:
        url: with no user, query or fragment.
        allow_http: send pictures and password unencrypted to another machine.

    Raises:
        UsageError: not such a URL, plain http to another machine, or half of the credentials.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        # The URL is not quoted: it may hold a password.
        raise UsageError("--pacs is no address of a PACS: expected one as in https://pacs.example/dicom-web")
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"--pacs holds a user or a password: set {USER} and {PASSWORD} instead")
    try:
        # What HTTP carries is ASCII: names of other alphabets as RFC 3490 writes them, paths in percents (RFC 3986).
        host = host.encode("idna").decode("ascii")
    except UnicodeError:
        raise UsageError("--pacs holds a host that no name can be: expected one as in https://pacs.example") from None
    path = quote(parts.path.rstrip("/"), safe=_IN_PATHS, errors="surrogateescape")
    encrypted = parts.scheme == "https"
    if not (encrypted or allow_http or _is_loopback(host)):
        raise UsageError(
            f"http to {host} would send patients' images unencrypted: use https, or --allow-http on a network that "
            "you trust"
        )
    return Address(host, port or (443 if encrypted else 80), path, encrypted, _authorisation())


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _authorisation() -> str | None:
    user, password = os.environ.get(USER), os.environ.get(PASSWORD)
    if not user and not password:
        return None
    if not user or not password:
        raise UsageError(f"only one of {USER} and {PASSWORD} is set: set both, or none")
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
