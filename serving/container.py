"""NVIDIA's Triton container for a filled repository: the image with the TensorRT of its plans, and how to run it."""

from pathlib import Path

from ..model.errors import UsageError
from .addresses import join
from .closed import closing_options
from .linter.files import plan_files
from .linter.models import read_models
from .linter.signatures import read_plan_header
from .triton_config import Target

REGISTRY = "nvcr.io/nvidia/tritonserver"
#: The TensorRT in each image, by NVIDIA's support matrix. None before 26.03, where an ensemble's rejected request can
#: hang.
TENSORRT = {"26.07": "11.1.0.106", "26.08": "11.2.1"}
NEWEST = max(TENSORRT)
#: The account that the image makes for its server.
USER = 1000


def plan_versions(repository: Path) -> dict[str, dict[Path, str]]:
    """The TensorRT that built each plan of a repository: network -> file -> version, no file where it has no plan.

    Raises:
        UsageError: there is no repository, or a plan is none.
    """
    models, faults = read_models(repository, "tensorrt")
    if faults:
        raise UsageError(str(faults[0]))
    return {
        name: {file: read_plan_header(file).version for file in plan_files(model)}
        for name, model in models.items()
        if model.backend == "tensorrt"
    }


def container_target(repository: Path) -> Target:
    """``tensorrt`` where every network of the repository has a plan, else ``onnxruntime``."""
    versions = plan_versions(repository)
    return "tensorrt" if versions and all(versions.values()) else "onnxruntime"


def image_for(repository: Path, target: Target) -> str:
    """The image that runs a target of a repository: for ``tensorrt`` the one with the TensorRT of its plans.

    Raises:
        UsageError: a network has no plan, the plans are of several versions, or no known image has theirs.
    """
    if target != "tensorrt":
        return f"{REGISTRY}:{NEWEST}-py3"
    versions = plan_versions(repository)
    if without := sorted(name for name, plans in versions.items() if not plans):
        raise UsageError(
            f"no TensorRT plan of {', '.join(without)} in {repository}: build them on the server's GPU with "
            "`coronanet export --fp16 --tensorrt`, or use the target onnxruntime"
        )
    built: dict[str, list[str]] = {}
    for plans in versions.values():
        for file, version in plans.items():
            built.setdefault(version, []).append(file.relative_to(repository).as_posix())
    images = [name for name, version in TENSORRT.items() if all(_matches(each, version) for each in built)]
    if not built or not images:
        known = ", ".join(f"{name} has {version}" for name, version in TENSORRT.items())
        found = " and ".join(f"{version} ({', '.join(built[version])})" for version in sorted(built))
        raise UsageError(
            f"expected plans of one TensorRT that an image carries ({known}), got {found or 'none'}: build them all "
            "with the TensorRT of the image that will serve them"
        )
    return f"{REGISTRY}:{images[-1]}-py3"


def docker_command(
    repository: Path,
    target: Target,
    *,
    host: str = "127.0.0.1",
    ports: tuple[int, int, int] = (8000, 8001, 8002),
    response_cache_mib: int = 0,
) -> list[str]:
    """The words of a ``docker run`` that serves a repository: as no root, on a filesystem that it cannot write to.

    Args:
        repository: a filled repository; mounted read-only.
        target: ``onnxruntime`` or ``tensorrt``.
        host: the address that the ports are published on.
        ports: HTTP, gRPC and metrics, as published.
        response_cache_mib: as the repository was filled with.

    Raises:
        UsageError: as ``image_for``.
    """
    published = [
        f"--publish={join(host, outer)}:{inner}" for outer, inner in zip(ports, (8000, 8001, 8002), strict=True)
    ]
    cache = [f"--cache-config=local,size={response_cache_mib * 2**20}"] if response_cache_mib else []
    return [
        *("docker", "run", "--rm", "--gpus=all", f"--user={USER}", "--read-only", "--tmpfs=/tmp", "--shm-size=256m"),
        *("--cap-drop=ALL", "--security-opt=no-new-privileges", *published),
        *(f"--volume={repository.resolve()}:/models:ro", image_for(repository, target)),
        *("tritonserver", "--model-repository=/models", f"--model-config-name={target}"),
        *("--disable-auto-complete-config", "--exit-timeout-secs=30", *closing_options(), *cache),
    ]


def _matches(built: str, carried: str) -> bool:
    return f"{built}.".startswith(f"{carried}.")
