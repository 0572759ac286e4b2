"""A repository that starts fast, for the tests that stop and kill servers."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.model.tasks import TaskName
from coronanet.serving.repository import fill_repository


def settled(count: Callable[[], dict[str, int]]) -> dict[str, int]:
    """Counters that stand still: a server counts a moment after it has answered."""
    before: dict[str, int] = {}
    while (now := count()) != before:
        before = now
        time.sleep(0.3)
    return now


@pytest.fixture(scope="session")
def small_repository(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository with the classification alone, which starts faster."""
    folder = tmp_path_factory.mktemp("small") / "triton_repo"
    fill_repository({"classification": bundles["classification"]}, folder, choices, instances=1)
    return folder
