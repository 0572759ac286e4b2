"""What a Triton server tells about itself beside its answers: an ensemble's steps, statistics, where its trace goes."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ..engines.triton_engine import CHANNEL, check_address
from ..model.errors import UsageError

#: What a server without ``--trace-config`` says in place of a file.
NO_FILE = ""


class TritonAdmin:
    """A connection to a server's own business; a context manager.

    Raises:
        UsageError: the address is malformed, or nothing answers there.
    """

    def __init__(self, address: str, *, timeout_s: float = 10.0) -> None:
        self._address, self._timeout_s = check_address(address), timeout_s
        self._client = InferenceServerClient(address, channel_args=list(CHANNEL))

    def steps(self, ensemble: str) -> list[str]:
        """The models that an ensemble is made of, in the order of its configuration; none for any other model."""
        config = self._call(lambda: self._client.get_model_config(ensemble, client_timeout=self._timeout_s)).config
        return list(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step))

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except InferenceServerException as error:
            message = " ".join((error.message() or "").split())
            raise UsageError(f"the Triton server at {self._address} does not answer: {message}") from None
