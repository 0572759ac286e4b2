"""How often to ask a server again: pauses that grow, each a random part of its limit, until a deadline."""

import random
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Retry:
    """The limits of the pauses between attempts; the deadline of the call limits their number.

    Every pause is drawn evenly between nothing and a limit that doubles ("full jitter", Brooker, AWS Architecture Blog,
    2015), so that clients which failed together do not come back together.

    Attributes:
        first_s: the limit of the first pause, in seconds.
        longest_s: what the limit never exceeds, in seconds.
    """

    first_s: float = 0.1
    longest_s: float = 2.0

    def pause_s(self, attempt: int) -> float:
        """A pause after attempt number ``attempt``, counted from 1, in seconds."""
        limit = min(self.longest_s, self.first_s * 2.0 ** min(attempt - 1, 30))
        return random.uniform(0, limit)  # noqa: S311 - no secret


class Attempts:
    """The attempts of one call under one deadline.

    Args:
        timeout_s: from now to the deadline, in seconds.
        retry: the pauses; None allows one attempt.
    """

    def __init__(self, timeout_s: float, retry: Retry | None) -> None:
        self._deadline = time.monotonic() + timeout_s
        self._retry = retry
        self.made = 1

    @property
    def left_s(self) -> float:
        """Seconds until the deadline, at least a millisecond."""
        return max(0.001, self._deadline - time.monotonic())

    def next_pause_s(self) -> float | None:
        """How long to wait before the next attempt, which is counted; None where there is none."""
        if self._retry is None:
            return None
        pause = self._retry.pause_s(self.made)
        if time.monotonic() + pause >= self._deadline:
            return None
        self.made += 1
        return pause
