"""What TensorRT logs, as one line of ours: what went wrong and what mends it. Pure text, nothing is imported.

TensorRT reports through its log alone, often with a line about CUDA after the one that matters; the patterns are of
messages that TensorRT-RTX 1.7 gave here and, for wrong versions and wrong GPUs, of those that TensorRT is known for.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..model.errors import Page, RefusedError, UsageError

#: Page of the guide, what the log says, what we say.
CAUSES: tuple[tuple[Page, str, str], ...] = (
    (
        "out-of-memory",
        r"bad_alloc|out of ?memory|cannot allocate memory|resource temporarily unavailable|requested amount of",
        "out of memory: end what else uses it, or build on a machine with more",
    ),
    (
        "out-of-memory",
        r"workspace (limit|size)|insufficient workspace",
        "the workspace is too small for any kernel: free memory of the GPU, or build on a larger one",
    ),
    (
        "no-profile",
        r"no optimization profile|missing dimensions in profile",
        "an axis of any size has no optimisation profile: fix it in the network, or make it the batch",
    ),
    (
        "unsupported-operator",
        r"failed to convert onnx date type",
        "a tensor has a type that TensorRT does not take, such as INT16: only networks become plans",
    ),
    (
        "plan-version",
        r"not compatible with this version|expecting library version|serialized engine version",
        "the plan is of another version of TensorRT: build it again with this one",
    ),
    (
        "corrupted-file",
        r"serialization assertion|magic ?tag|empty memory buffer|failed to parse the onnx model|corrupt",
        "the file is damaged: export it again with `coronanet export`",
    ),
    (
        "wrong-gpu",
        r"incompatible device|expecting compute|compute capability",
        "the plan is for another GPU: build it on this one",
    ),
    (
        "no-gpu",
        r"cudaerror (35|100|999)\b|driver version is insufficient|no cuda-capable device|status == cuda_success",
        "it needs an NVIDIA GPU and its driver, and none can be used here",
    ),
)
#: A second line that follows any failure where no GPU is.
NOISE = re.compile(r"^\[checkMacros\.cpp::catchCudaError")
#: Nodes that one message names.
NAMED_NODES = 5
PLACE = re.compile(r"\s*\.?\s*In \S+ at /_src/\S+?(?=\)|$)")


@dataclass(frozen=True)
class NodeError:
    """What the ONNX parser says about one node; ``node`` and ``operator`` are empty where it is about the file."""

    node: str
    operator: str
    code: str
    text: str


def explain(messages: Sequence[str]) -> tuple[str, Page | None]:
    """The cause of a failure with its remedy, and the guide's page; TensorRT's own words where they are not known."""
    lines = [line for line in messages if not NOISE.match(line)]
    for line in lines:
        for page, pattern, text in CAUSES:
            if re.search(pattern, line, re.IGNORECASE):
                return text, page
    return PLACE.sub("", lines[0]).replace("\n", " ") if lines else "TensorRT gave no reason", None


def failure(action: str, messages: Sequence[str]) -> UsageError:
    """The error of an ``action`` that failed, such as ``"cannot build x.plan"``."""
    text, page = explain(messages)
    return UsageError(f"{action}: {text}", page=page)


def refusal(action: str, messages: Sequence[str]) -> RefusedError:
    """The error of a file that does not pass, such as ``"cannot load x.plan"``."""
    text, page = explain(messages)
    return RefusedError(f"{action}: {text}", page=page)


def parse_failure(path: Path, errors: Sequence[NodeError]) -> UsageError | RefusedError:
    """The error of an ONNX file that TensorRT does not take, with the nodes that are to blame."""
    nodes = [error for error in errors if error.node]
    if not nodes:
        return failure(f"TensorRT cannot read {path.name}", [error.text for error in errors])
    named = [_describe(error) for error in nodes[:NAMED_NODES]]
    more = f"; and {len(nodes) - NAMED_NODES} more" if len(nodes) > NAMED_NODES else ""
    page: Page = "int32-bias" if _has_integer_bias(nodes[0]) else "unsupported-operator"
    return RefusedError(f"TensorRT cannot take {path.name}: {'; '.join(named)}{more}", page=page)


def _describe(error: NodeError) -> str:
    name = f"node {error.node} ({error.operator})"
    if _has_integer_bias(error):
        return f"{name} has an INT32 bias, quantise with QuantizeBias off"
    if error.code.startswith("UNSUPPORTED_NODE") or "Plugin not found" in error.text:
        return f"{name} is an unsupported operator"
    return f"{name}: {PLACE.sub('', error.text.splitlines()[-1])}"


def _has_integer_bias(error: NodeError) -> bool:
    return error.operator == "DequantizeLinear" and "has type Int32" in error.text
