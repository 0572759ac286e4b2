"""What a Triton server tells about itself beside its answers: an ensemble's steps, statistics, where its trace goes."""

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from tritonclient.grpc import service_pb2_grpc

from ..engines.triton_connection import Connection, as_connection
from ..engines.triton_wire import ClosedError, failure, message
from .waterfall import StepStatistics

#: What the trace is told while a measurement runs. With a log frequency, that of the largest int, every end of tracing
#: closes a file, ``FILE.0`` and on; without one the end of the last stays in a buffer.
TRACING = {"trace_level": "TIMESTAMPS", "trace_rate": "1", "trace_count": "-1", "log_frequency": str(2**31 - 1)}


class TritonAdmin:
    """A connection to a server's own business; a context manager.

    Its methods raise `UsageError` where nothing answers or the server refuses.
    """

    def __init__(self, server: str | Connection, *, timeout_s: float = 10.0) -> None:
        self._connection, self._timeout_s = as_connection(server), timeout_s
        self.address = self._connection.address
        self._channel = self._connection.channel()
        self._stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def steps(self, ensemble: str) -> list[str]:
        """The models that an ensemble is made of, in the order of its configuration; none for any other model."""
        return list(dict.fromkeys(step.model_name for step in self._steps(ensemble)))

    def waits_for(self, ensemble: str) -> dict[str, list[str]]:
        """For every step of an ensemble the steps whose outputs it reads; empty for any other model."""
        steps = self._steps(ensemble)
        writer = {tensor: step.model_name for step in steps for tensor in step.output_map.values()}
        return {
            step.model_name: [writer[tensor] for tensor in step.input_map.values() if tensor in writer]
            for step in steps
        }

    def statistics(self) -> dict[str, StepStatistics]:
        """Triton's counters by model, since it was loaded."""
        answer = self._call("server", self._stub.ModelStatistics, message("ModelStatisticsRequest")())
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
        try:
            settings = self._call("trace", self._stub.TraceSetting, message("TraceSettingRequest")()).settings
        except ClosedError:
            return None
        values = settings["trace_file"].value if "trace_file" in settings else ()
        return Path(values[0]) if values and values[0] else None

    def trace(self, model: str, *, on: bool) -> None:
        """Begin to trace every request of a model, or end it, which writes what was seen to the file."""
        request = message("TraceSettingRequest")(model_name=model)
        for name, value in (TRACING if on else {"trace_level": "OFF"}).items():
            request.settings[name].value.append(value)
        self._call(model, self._stub.TraceSetting, request)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def _steps(self, ensemble: str) -> list[Any]:
        request = message("ModelConfigRequest")(name=ensemble)
        return list(self._call(ensemble, self._stub.ModelConfig, request).config.ensemble_scheduling.step)

    def _call(self, what: str, call: Callable[..., Any], request: Any) -> Any:
        try:
            return call(request, timeout=self._timeout_s, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise failure(error, self._connection, what, self._timeout_s) from None
