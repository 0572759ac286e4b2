"""What of Triton's protocols is closed to everybody: what no client needs, and whoever reaches a port could misuse.

Shared memory names other processes' memory, a model brings code, a trace at the level ``TENSORS`` writes pixels to a
file, and the log can be told to say more. Triton can only keep them for those who send a header whose name and value
stand on its command line, which every user of the machine can read. So the header is one that nobody can send.
"""

from ..engines.triton_wire import NOBODY

#: By Triton's own names.
CLOSED = ("shared-memory", "model-repository", "trace", "logging")


def closing_options(*, trace: bool = False) -> list[str]:
    """The words of Triton's command line that close all of it, on HTTP and gRPC; but for ``trace``, where asked for."""
    names = ",".join(name for name in CLOSED if not (trace and name == "trace"))
    return [f"--{option}={names}:{NOBODY}=closed" for option in ("http-restricted-api", "grpc-restricted-protocol")]
