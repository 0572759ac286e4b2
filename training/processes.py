"""The processes of `--devices`: the first one speaks for all, and a failure in any is one line."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout

from ..console import fail
from ..model.errors import UsageError

#: What gloo and NCCL say in a process that has lost another.
LOST = ("gloo", "NCCL", "nccl")


def is_helper() -> bool:
    """Whether Lightning started this process for ``--devices``; the first process, which the user started, is none."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


@contextmanager
def one_voice() -> Generator[None]:
    """Keep stdout for the answer, and let only the process speak that has something of its own to say.

    Raises:
        UsageError: in the first process, where another one has ended.
    """
    with redirect_stdout(sys.stderr):
        try:
            yield
        except KeyboardInterrupt:
            if not is_helper():
                fail("stopped: --resume goes on from the last checkpoint")
            raise
        except Exception as error:
            has_lost_another = isinstance(error, RuntimeError) and any(name in str(error) for name in LOST)
            if not is_helper() and has_lost_another:
                said = "another process of --devices has ended, its own line says why: go on with --resume"
                raise UsageError(said) from None
            if not is_helper():
                raise
            if not has_lost_another:
                fail(f"process {os.environ['LOCAL_RANK']} of --devices: {error}")
    if is_helper():
        # Without success or failure of its own: Lightning would kill the first process before it can say what failed.
        raise SystemExit(0)
