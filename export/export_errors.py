"""Why torch cannot export a network, in one line: the operator, or the line of its code."""

import re
import traceback

from ..model.errors import UsageError

#: As torch 2.13 writes it, below the error of the step that failed.
NO_OPERATOR = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.:]+)'")
ON_VALUES = re.compile(r"data-dependent")
FIXED_AXIS = re.compile(r"inferred a static shape of (\d+) for dimension \S+?\.shape\[(\d+)\]")
CODE = re.compile(r'File "([^"]+)", line (\d+), in \w+\n\s*([^\n]+)')


def cannot_export(error: Exception) -> UsageError:
    """The error for a network that the exporter refused with ``error``, whose reports fill screens."""
    chain = [error]
    while isinstance(cause := chain[-1].__cause__, Exception):
        chain.append(cause)
    report = "\n".join(str(each) for each in chain)
    return UsageError(f"the network cannot be exported: {_reason(report, chain[-1])}", page="unsupported-operator")


def _reason(report: str, root: Exception) -> str:
    if found := NO_OPERATOR.search(report):
        return f"ONNX has no operator for {found[1]}: write it as layers and arithmetic that ONNX has"
    if found := FIXED_AXIS.search(report):
        return f"its code fixes axis {found[2]} at {found[1]}: take sizes from the tensor, as in x.flatten(1)"
    code = CODE.search(report)
    place = f" at {code[1]}, line {code[2]}: `{code[3].strip()}`" if code else f" ({own_line(root)})"
    if ON_VALUES.search(report):
        return f"what it does depends on the values of a tensor{place}: use torch.where"
    return f"{first_line(root)}{place}"


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def own_line(error: BaseException) -> str:
    """The deepest line of code that belongs to no installed package: where the user's own code was."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename and not frame.filename.startswith("<")]
    last = (own or frames)[-1]
    return f"{last.filename}, line {last.lineno}"
