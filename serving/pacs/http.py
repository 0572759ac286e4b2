"""HTTP to a PACS: every answer bounded in time and size, no redirect followed, nothing logged."""

import json
import ssl
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from http.client import CannotSendRequest, HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any

from ...model.errors import UsageError
from .address import PASSWORD, USER, Address

#: Seconds for the server's next bytes, and for a whole answer.
TIMEOUT_S = 30.0
ANSWER_S = 900.0
MAX_JSON = 16 * 2**20
CHUNK = 2**16


class Client:
    """One connection to a PACS, opened again when the server closed it. A context manager."""

    def __init__(self, address: Address, *, timeout_s: float = TIMEOUT_S) -> None:
        self.address = address
        if address.encrypted:
            context = ssl.create_default_context()
            self._connection: HTTPConnection = HTTPSConnection(
                address.host, address.port, timeout=timeout_s, context=context
            )
        else:
            self._connection = HTTPConnection(address.host, address.port, timeout=timeout_s)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @contextmanager
    def request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Iterable[bytes] | None = None,
        *,
        expected: Iterable[int] = (200,),
    ) -> Generator[HTTPResponse]:
        """Ask, and have the answer while the block runs.

        Args:
            path: below the root of the PACS.
            expected: the status codes that are an answer; everything else is an error.

        Raises:
            UsageError: no connection, no answer in time, or another status.
        """
        if self.address.authorisation is not None:
            headers = headers | {"Authorization": self.address.authorisation}
        answer = self._ask(method, self.address.path + path, headers, body)
        try:
            if answer.status not in expected:
                raise self._unexpected(answer.status)
            yield answer
        finally:
            # What is left of an answer would be taken for the next one.
            if not answer.isclosed():
                self._connection.close()

    def get_json(self, path: str) -> list[dict[str, Any]]:
        """The objects of a search; none where the server finds none (204).

        Raises:
            UsageError: as ``request``, or the answer is not JSON as PS3.18 F has it.
        """
        with self.request("GET", path, {"Accept": "application/dicom+json"}, expected=(200, 204)) as answer:
            text = b"".join(self.chunks(answer, MAX_JSON))
        try:
            found: Any = json.loads(text) if text.strip() else []
        except (ValueError, RecursionError):
            raise self.garbage("no JSON") from None
        if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
            raise self.garbage("no list of objects")
        return found

    def chunks(self, answer: HTTPResponse, limit: int) -> Generator[bytes]:
        """The body of an answer.

        Raises:
            UsageError: it is larger than ``limit`` bytes, or takes too long.
        """
        received, deadline = 0, time.monotonic() + ANSWER_S
        while True:
            with self._failures():
                chunk = answer.read1(CHUNK)
            received += len(chunk)
            if received > limit:
                raise UsageError(f"the PACS at {self.address} sends more than {limit / 2**20:.3g} MiB: nothing is read")
            if time.monotonic() > deadline:
                raise UsageError(f"the PACS at {self.address} took more than {ANSWER_S:.0f} s for one answer")
            if not chunk:
                # What read1 does not say itself.
                if answer.length:
                    raise UsageError(f"the PACS at {self.address} broke off in the midst of an answer: try again")
                return
            yield chunk

    def garbage(self, what: str) -> UsageError:
        return UsageError(
            f"what answers at {self.address} is no PACS ({what} came): expected DICOMweb, as in "
            "https://pacs.example/dicom-web"
        )

    def _ask(self, method: str, path: str, headers: dict[str, str], body: Iterable[bytes] | None) -> HTTPResponse:
        with self._failures():
            reused = self._connection.sock is not None
            try:
                self._connection.request(method, path, body, headers)
                return self._connection.getresponse()
            except (ConnectionError, CannotSendRequest):
                self._connection.close()
                # A server may close a connection that was kept; what was sent with a body is not sent twice.
                if not reused or body is not None:
                    raise
                self._connection.request(method, path, headers=headers)
                return self._connection.getresponse()

    @contextmanager
    def _failures(self) -> Generator[None]:
        try:
            yield
        except TimeoutError:
            raise UsageError(f"the PACS at {self.address} does not answer in time: try again later") from None
        except ssl.SSLError as error:
            raise UsageError(f"no safe connection to {self.address} ({error.reason}): check its certificate") from None
        except ConnectionError as error:
            raise UsageError(f"no connection to a PACS at {self.address} ({type(error).__name__}): is it up?") from None
        except HTTPException as error:
            raise self.garbage(type(error).__name__) from None
        except OSError as error:
            raise UsageError(f"no connection to {self.address} ({error.strerror or error}): check --pacs") from None

    def _unexpected(self, status: int) -> UsageError:
        if status in (401, 403):
            return UsageError(
                f"the PACS at {self.address} refuses these credentials ({status}): check {USER} and {PASSWORD}"
            )
        if 300 <= status < 400:
            return UsageError(f"{self.address} points elsewhere ({status}), which is not followed: pass that address")
        if status == 404:
            return UsageError(f"the PACS at {self.address} has nothing there (404): check --pacs, --study and --series")
        return UsageError(f"the PACS at {self.address} answers with status {status}: expected 200")
