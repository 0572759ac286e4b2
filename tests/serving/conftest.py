"""A filled repository and a running Triton server, once for the whole run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from coronanet.engines.bundle import Bundle
from coronanet.engines.predictor import Choice
from coronanet.engines.ranking import choose
from coronanet.model.tasks import TaskName
from coronanet.serving.repository import fill_repository
from coronanet.serving.server import Ports, TritonServer


@pytest.fixture(scope="session")
def choices(bundles: dict[TaskName, Bundle]) -> dict[TaskName, Choice]:
    """What `coronanet serve` would run on this machine, with the one thread that two instances leave each other."""
    return {name: replace(choice, threads=1) for name, choice in choose(bundles).items()}


@pytest.fixture(scope="session")
def repository(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A filled model repository with every step."""
    folder = tmp_path_factory.mktemp("serving") / "triton_repo"
    fill_repository(bundles, folder, choices)
    return folder


@pytest.fixture(scope="session")
def small_repository(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository with the classification alone, which starts faster."""
    folder = tmp_path_factory.mktemp("small") / "triton_repo"
    fill_repository({"classification": bundles["classification"]}, folder, choices, instances=1)
    return folder


@pytest.fixture(scope="session")
def triton_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The real embedded server with the whole ensemble, on free ports."""
    log = tmp_path_factory.mktemp("triton") / "log"
    with TritonServer(repository, ports=Ports.free(), log=log) as server:
        yield server
