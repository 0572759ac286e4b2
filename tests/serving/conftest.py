"""A repository that starts fast, for the tests that stop and kill servers."""

from pathlib import Path

import pytest
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.model.tasks import TaskName
from coronanet.serving.repository import fill_repository


@pytest.fixture(scope="session")
def small_repository(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository with the classification alone, which starts faster."""
    folder = tmp_path_factory.mktemp("small") / "triton_repo"
    fill_repository({"classification": bundles["classification"]}, folder, choices, instances=1)
    return folder
