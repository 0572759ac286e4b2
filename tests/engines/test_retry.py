"""Pauses between attempts: random, growing, and never beyond the deadline."""

import pytest
from coronanet.engines import retry
from coronanet.engines.retry import Attempts, Retry


def test_every_pause_is_drawn_below_a_limit_that_doubles_up_to_the_longest() -> None:
    policy = Retry(first_s=0.1, longest_s=1.0)
    for attempt, limit in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.8), (5, 1.0), (2000, 1.0)):
        pauses = [policy.pause_s(attempt) for _ in range(200)]
        assert 0 <= min(pauses) < 0.3 * limit
        assert 0.7 * limit < max(pauses) <= limit


def test_without_a_policy_there_is_one_attempt() -> None:
    attempts = Attempts(60, None)
    assert attempts.next_pause_s() is None
    assert attempts.made == 1


def test_no_attempt_begins_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    attempts = Attempts(5, Retry(first_s=1, longest_s=1))
    waited: list[float] = []
    while (pause := attempts.next_pause_s()) is not None:
        assert now[0] + pause < 105
        now[0] += pause + 0.25
        waited.append(pause)
        assert attempts.left_s == pytest.approx(max(0.001, 105 - now[0]))
    assert attempts.made == 1 + len(waited)
    assert len(waited) >= 4
    now[0] = 200
    assert attempts.left_s == 0.001
