"""A repository that starts fast, for the tests that stop and kill servers."""

import os
import re
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from coronanet.engines.bundle import Bundle, PlanTarget, hash_file
from coronanet.engines.plans import plan_name
from coronanet.engines.predictor import Choice
from coronanet.model.tasks import TaskName
from coronanet.serving.processes import ModelProcess
from coronanet.serving.repository import fill_repository

#: What `trtexec --getPlanVersionOnly` would read: TensorRT 11.1.0.106.
PLAN = b"ftrt" + bytes(20) + bytes((11, 1, 0, 106)) + bytes(100)


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback, ::1")


def time_slice_ns(thread: str) -> int:
    """The time slice of a thread, ``PID`` or ``PID/task/TID``, in nanoseconds, as the kernel lists it."""
    (slice_ns,) = re.findall(r"^se\.slice +: +(\d+)$", Path(f"/proc/{thread}/sched").read_text(), re.MULTILINE)
    return int(slice_ns)


def _has_time_slices() -> bool:
    release = tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])
    return release >= (6, 12) and Path("/proc/self/sched").is_file()


needs_time_slices = pytest.mark.skipif(
    not _has_time_slices(), reason="this kernel has no time slices of one's own, or does not list them: Linux 6.12"
)


needs_schedstat = pytest.mark.skipif(
    ModelProcess(os.getpid(), "", "").worked_ns is None,
    reason="this kernel does not count how long a thread has had a processor",
)


def settled(count: Callable[[], dict[str, int]]) -> dict[str, int]:
    """Counters that stand still: a server counts a moment after it has answered."""
    before: dict[str, int] = {}
    while (now := count()) != before:
        before = now
        time.sleep(0.3)
    return now


def with_plan(bundle: Bundle, folder: Path) -> Bundle:
    """A copy of a bundle with a proved plan, of which there is but the header."""
    copy = shutil.copytree(bundle.path, folder / bundle.path.name)
    target = PlanTarget(runtime="tensorrt", version="11.1.0.106", compute_capability="9.0", gpu="a GPU")
    path = plan_name(target, "fp32")
    (copy / path).parent.mkdir()
    (copy / path).write_bytes(PLAN)
    record = bundle.require("network").model_copy(
        update={"path": path, "sha256": hash_file(copy / path), "kind": "plan", "target": target}
    )
    manifest = bundle.manifest.model_copy(update={"files": (*bundle.manifest.files, record)})
    return Bundle(copy, manifest, bundle.card, bundle.sha256)


@pytest.fixture(scope="session")
def planned_repository(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository of two networks, of which the classification has a plan, with the gated model."""
    folder = tmp_path_factory.mktemp("planned")
    planned: dict[TaskName, Bundle] = {
        "classification": with_plan(bundles["classification"], folder),
        "binary_segmentation": bundles["binary_segmentation"],
    }
    fill_repository(planned, folder / "triton_repo", choices, triage_threshold=0.5)
    return folder / "triton_repo"


@pytest.fixture(scope="session")
def small_repository(
    bundles: dict[TaskName, Bundle], choices: dict[TaskName, Choice], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository with the classification alone, which starts faster."""
    folder = tmp_path_factory.mktemp("small") / "triton_repo"
    fill_repository({"classification": bundles["classification"]}, folder, choices, instances=1)
    return folder
