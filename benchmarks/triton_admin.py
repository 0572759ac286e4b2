"""What a Triton server tells about itself beside its answers: an ensemble's steps, statistics, where its trace goes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ..engines.triton_engine import CHANNEL, check_address
from ..model.errors import UsageError
from .timing import NS_PER_MS

#: What the trace is told while a measurement runs. With a log frequency, that of the largest int, every end of tracing
#: closes a file, ``FILE.0`` and on; without one the end of the last stays in a buffer.
TRACING = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "-1", "log_frequency": str(2**31 - 1)}


@dataclass(frozen=True)
class StepStatistics:
    """Triton's own counters of one model over a stretch of time: requests that succeeded, and what they took."""

    count: int
    queue_ns: int
    input_ns: int
    compute_ns: int
    output_ns: int

    @property
    def mean_ms(self) -> float:
        """Queue, copies and computing of one request."""
        return (self.queue_ns + self.input_ns + self.compute_ns + self.output_ns) / self.count / NS_PER_MS

    def __sub__(self, earlier: "StepStatistics") -> "StepStatistics":
        return StepStatistics(
            self.count - earlier.count,
            self.queue_ns - earlier.queue_ns,
            self.input_ns - earlier.input_ns,
            self.compute_ns - earlier.compute_ns,
            self.output_ns - earlier.output_ns,
        )

    def __add__(self, other: "StepStatistics") -> "StepStatistics":
        return StepStatistics(
            self.count + other.count,
            self.queue_ns + other.queue_ns,
            self.input_ns + other.input_ns,
            self.compute_ns + other.compute_ns,
            self.output_ns + other.output_ns,
        )


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

    def waits_for(self, ensemble: str) -> dict[str, list[str]]:
        """For every step of an ensemble the steps whose outputs it reads; empty for any other model."""
        config = self._call(lambda: self._client.get_model_config(ensemble, client_timeout=self._timeout_s)).config
        steps = list(config.ensemble_scheduling.step)
        writer = {tensor: step.model_name for step in steps for tensor in step.output_map.values()}
        return {
            step.model_name: [writer[tensor] for tensor in step.input_map.values() if tensor in writer]
            for step in steps
        }

    def statistics(self) -> dict[str, StepStatistics]:
        """Triton's counters by model, since it was loaded."""
        answer = self._call(lambda: self._client.get_inference_statistics(client_timeout=self._timeout_s))
        return {
            model.name: StepStatistics(
                model.inference_stats.success.count,
                model.inference_stats.queue.ns,
                model.inference_stats.compute_input.ns,
                model.inference_stats.compute_infer.ns,
                model.inference_stats.compute_output.ns,
            )
            for model in answer.model_stats
        }

    def trace_file(self) -> Path | None:
        """Where the server writes its trace on its own machine, with a number behind; None where it has no trace."""
        answer = self._call(lambda: self._client.get_trace_settings(client_timeout=self._timeout_s))
        values = answer.settings["trace_file"].value if "trace_file" in answer.settings else ()
        return Path(values[0]) if values and values[0] else None

    def trace(self, model: str, *, on: bool) -> None:
        """Begin to trace every request of a model, or end it, which writes what was seen to the file."""
        settings: dict[str, Any] = dict(TRACING) if on else {"trace_level": ["OFF"]}
        self._call(
            lambda: self._client.update_trace_settings(
                model_name=model, settings=settings, client_timeout=self._timeout_s
            )
        )

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
