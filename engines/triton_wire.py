"""Tensors to Triton's messages and back, and what its errors mean: what every client of it shares."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pool, message_factory
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from ..model.errors import UsageError
from .base import DYNAMIC, Tensors, TensorSpec, check_feeds
from .triton_connection import Connection

#: Triton itself takes requests of any size; 32 slices of 1024 x 1024 are as many as one call needs.
MAX_REQUEST_BYTES = 64 * 2**20
DTYPES = {"INT16": "int16", "FP32": "float32", "UINT8": "uint8"}
TRITON_TYPES = {dtype: name for name, dtype in DTYPES.items()}
#: How Triton refuses a call of a restricted protocol; its status is the same as that of a server that is away.
RESTRICTED = "protocol is restricted"
#: A header that no request can carry, since no name in HTTP/1 or HTTP/2 has a colon in it: what a server keeps for
#: those who send it is closed.
NOBODY = "No:body"
#: How Triton says that the process that was to answer is dead; the second where it died with a lock in its hands.
DEAD_PROCESS = (re.compile("Stub process .*is not healthy"), re.compile("Failed to obtain the health mutex"))
RESOLVING = "errors resolving"
#: How gRPC itself, on either side, says that there is no connection or no longer one; a status does not tell.
NO_CONNECTION = (
    "ailed to connect",
    "backends failing",
    RESOLVING,
    "Socket closed",
    "Connection re",
    "recvmsg",
    "GOAWAY",
    "Broken pipe",
    "Cancelling all calls",
    "http1",
)


def message(name: str) -> Any:
    """A message type of Triton's protocol; the generated module declares them only when it runs."""
    package = service_pb2.DESCRIPTOR.package
    return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(f"{package}.{name}"))


@dataclass(frozen=True)
class ServedStep:
    """A step of a served ensemble: the model, and the ensemble's tensors behind its inputs and outputs."""

    model: str
    reads: Mapping[str, str]
    writes: Mapping[str, str]


@dataclass(frozen=True)
class ServedModel:
    """A model as its server describes it, with the outputs that are asked for.

    Attributes:
        name: the model's name.
        max_batch: the largest batch that it takes.
        steps: of an ensemble, the models that it chains; else empty.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    steps: tuple["ServedStep", ...] = ()

    @classmethod
    def of(cls, metadata: Any, config: Any, outputs: Sequence[str] | None, address: str) -> "ServedModel":
        """Read the answers to ``ModelMetadata`` and ``ModelConfig``.

        Raises:
            UsageError: it does not batch, has a tensor of another type, or lacks one of ``outputs``.
        """
        name = str(metadata.name)
        if config.max_batch_size < 1:
            raise UsageError(f"the model {name} at {address} does not batch: expected max_batch_size of 1 or more")
        inputs, available = (
            tuple(_spec(tensor, name, address) for tensor in tensors) for tensors in (metadata.inputs, metadata.outputs)
        )
        steps = tuple(
            ServedStep(step.model_name, dict(step.input_map), dict(step.output_map))
            for step in config.ensemble_scheduling.step
        )
        return cls(name, inputs, _select(available, outputs, name), int(config.max_batch_size), steps)

    def request(self, feeds: Tensors) -> Any:
        """The message that asks for ``outputs``; nothing that does not fit becomes one.

        Raises:
            UsageError: as ``check_feeds``, or it is larger than ``MAX_REQUEST_BYTES``.
        """
        check_feeds(feeds, self.inputs, self.max_batch)
        size = sum(array.nbytes for array in feeds.values())
        if size > MAX_REQUEST_BYTES:
            raise UsageError(
                f"expected a request of at most {MAX_REQUEST_BYTES / 2**20:.0f} MiB, got {size / 2**20:.0f} MiB: "
                "send fewer slices at a time"
            )
        request = message("ModelInferRequest")(model_name=self.name)
        for name, array in feeds.items():
            request.inputs.add(name=name, datatype=TRITON_TYPES[str(array.dtype)], shape=array.shape)
            request.raw_input_contents.append(array.tobytes())
        for spec in self.outputs:
            request.outputs.add(name=spec.name)
        return request

    def answer(self, response: Any, address: str) -> dict[str, NDArray[Any]]:
        """The tensors of an answer, which belong to the caller.

        Raises:
            UsageError: an output is missing, or has another type or shape than the model's.
        """
        received = {
            tensor.name: (tensor, raw)
            for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=False)
        }
        return {spec.name: _array(spec, received.get(spec.name), address) for spec in self.outputs}


def can_pass(error: grpc.RpcError) -> bool:
    """Whether the same request may be answered later: the server is away or full, or a model's process has died.

    Inference changes nothing, so asking twice is safe. A wrong request stays wrong.
    """
    if status_of(error) == "INTERNAL":
        return any(words.search(details_of(error)) for words in DEAD_PROCESS)
    if RESTRICTED in details_of(error):
        return False
    # Nobody here cancels a request and then looks at its status: a server that is being stopped does.
    return status_of(error) in ("UNAVAILABLE", "CANCELLED")


class UnansweredError(UsageError):
    """Nobody answered: the server is away, full or too late, or one of its processes has died."""


class ClosedError(UsageError):
    """The server was started with this closed to everybody."""


def failure(
    error: grpc.RpcError, connection: Connection, model: str, timeout_s: float, attempts: int = 1
) -> UsageError:
    """What failed and what mends it, in one line, to be raised."""
    address, details = connection.address, details_of(error)
    tried = f" (tried {attempts} times in {timeout_s:g} s)" if attempts > 1 else ""
    match status_of(error):
        case "UNAVAILABLE" if RESTRICTED in details and NOBODY in details:
            return ClosedError(f"the Triton server at {address} was started with this closed: {model}")
        case "UNAVAILABLE" if RESTRICTED in details:
            return UsageError(
                f"the Triton server at {address} asks for a key ({details}): put NAME=VALUE into the environment as "
                "CORONANET_SERVER_KEY, or into a file and give --server-key"
            )
        case "UNAVAILABLE" if any(words in details for words in NO_CONNECTION):
            return UnansweredError(_unreachable(details, connection) + tried)
        case "CANCELLED":
            return UnansweredError(f"the Triton server at {address} gave the request up: is it being stopped?{tried}")
        case "DEADLINE_EXCEEDED":
            return UnansweredError(f"the Triton server at {address} did not answer within {timeout_s:g} s")
        case _:
            kind = UnansweredError if can_pass(error) else UsageError
            return kind(f"the Triton server at {address} refused {model}: {details}{tried}")


def _unreachable(details: str, connection: Connection) -> str:
    address = connection.address
    if connection.tls is not None:
        return (
            f"no encrypted connection to {address} ('{details}'): expected a server that speaks TLS there, whose "
            "certificate is for this name and of --tls-root, and that takes --tls-certificate where it asks for one"
        )
    # At the first connection, that is; a server that goes away later closes its socket too.
    first = "ailed to connect" in details or "backends failing" in details
    if "http1" in details or (first and "Socket closed" in details):
        return (
            f"what answers at {address} is not gRPC: give the gRPC port, 8001 unless it was moved, and --tls-root "
            "where the server speaks TLS"
        )
    if RESOLVING in details:
        return f"no machine is known by the name of {address}: expected HOST:PORT, such as 127.0.0.1:8001"
    return f"no Triton server answers at {address}: start one with `coronanet serve`"


def status_of(error: grpc.RpcError) -> str:
    """The name of gRPC's status, such as ``UNAVAILABLE``."""
    code: Any = getattr(error, "code", None)
    return code().name if code else "UNKNOWN"


def details_of(error: grpc.RpcError) -> str:
    """What the server or gRPC said, in one line."""
    details: Any = getattr(error, "details", None)
    return " ".join((details() or "").split()) if details else str(error)


def _spec(tensor: Any, model: str, address: str) -> TensorSpec:
    if tensor.datatype not in DTYPES:
        raise UsageError(
            f"{model} at {address} has {tensor.name} of type {tensor.datatype}: expected one of {', '.join(DTYPES)}"
        )
    return TensorSpec(tensor.name, DTYPES[tensor.datatype], tuple(tensor.shape))


def _select(available: tuple[TensorSpec, ...], names: Sequence[str] | None, model: str) -> tuple[TensorSpec, ...]:
    if names is None:
        return available
    by_name = {spec.name: spec for spec in available}
    if unknown := [name for name in names if name not in by_name]:
        raise UsageError(f"{model} has no output '{unknown[0]}': expected one of {', '.join(by_name)}")
    return tuple(by_name[name] for name in names)


def _array(spec: TensorSpec, received: tuple[Any, bytes] | None, address: str) -> NDArray[Any]:
    if received is None:
        raise UsageError(f"the Triton server at {address} left {spec.name} out of its answer")
    tensor, raw = received
    shape = tuple(tensor.shape)
    fits = len(shape) == len(spec.shape) and all(
        wanted in (size, DYNAMIC) for size, wanted in zip(shape, spec.shape, strict=True)
    )
    if tensor.datatype != TRITON_TYPES[spec.dtype] or not fits:
        raise UsageError(
            f"the Triton server at {address} gave {tensor.name} as {tensor.datatype} {list(shape)}: expected {spec}"
        )
    size = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize
    if len(raw) != size:
        raise UsageError(
            f"the Triton server at {address} sent {len(raw)} bytes of {spec.name} {list(shape)}: expected {size}"
        )
    # What arrived is a read-only view of the message; the caller owns what it gets.
    return np.frombuffer(raw, dtype=spec.dtype).reshape(shape).copy()
