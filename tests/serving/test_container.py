"""The `docker run` of NVIDIA's container: the image with the TensorRT of the plans, and nothing more than it needs."""

import struct
from pathlib import Path

import pytest
from coronanet.model.errors import UsageError
from coronanet.serving.closed import closing_options
from coronanet.serving.container import container_target, docker_command, image_for

CONFIG = """
backend: "tensorrt"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 4 }
output { name: "y" data_type: TYPE_FP32 dims: 4 }
cc_model_filenames { key: "9.0" value: "sm90.plan" }
"""


def write_plan(path: Path, version: str) -> None:
    """The header of a plan of a version of TensorRT."""
    path.write_bytes(struct.pack("<4sI16x4B", b"ftrt", 0, *(int(part) for part in version.split("."))))


def write_repository(root: Path, versions: dict[str, str | None]) -> Path:
    """Networks, each with a plan of a version of TensorRT, or none."""
    for name, version in versions.items():
        folder = root / name
        (folder / "1").mkdir(parents=True)
        (folder / "configs").mkdir()
        (folder / "config.pbtxt").write_text('backend: "python"\n')
        (folder / "configs" / "tensorrt.pbtxt").write_text(CONFIG)
        if version:
            write_plan(folder / "1" / "sm90.plan", version)
    return root


@pytest.mark.parametrize(
    ("version", "image"),
    [
        ("11.1.0.106", "nvcr.io/nvidia/tritonserver:26.07-py3"),
        ("11.2.1.7", "nvcr.io/nvidia/tritonserver:26.08-py3"),
    ],
)
def test_the_image_has_the_tensorrt_of_the_plans(tmp_path: Path, version: str, image: str) -> None:
    repository = write_repository(tmp_path, {"a": version, "b": version})
    assert container_target(repository) == "tensorrt"
    assert image_for(repository, "tensorrt") == image
    assert "--model-config-name=tensorrt" in docker_command(repository, "tensorrt")


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"a": "10.3.0.26"}, "26.07 has 11.1.0.106, 26.08 has 11.2.1), got 10.3.0.26"),
        ({"a": "11.1.0.107"}, "got 11.1.0.107"),
        ({"a": "11.1.0.106", "b": "11.2.1.7"}, "got 11.1.0.106 (a/1/sm90.plan) and 11.2.1.7 (b/1/sm90.plan)"),
        ({"a": "11.1.0.106", "b": None}, "no TensorRT plan of b"),
    ],
)
def test_plans_that_no_image_loads_are_refused(tmp_path: Path, versions: dict[str, str | None], words: str) -> None:
    with pytest.raises(UsageError) as refused:
        image_for(write_repository(tmp_path, versions), "tensorrt")
    assert words in str(refused.value)


@pytest.mark.parametrize("older", ["sm86.plan", "sm90.plan"])
def test_plans_of_two_versions_in_one_network_are_refused_by_name(tmp_path: Path, older: str) -> None:
    repository = write_repository(tmp_path, {"a": "11.2.1.7"})
    config = repository / "a" / "configs" / "tensorrt.pbtxt"
    config.write_text(config.read_text() + 'cc_model_filenames { key: "8.6" value: "sm86.plan" }\n')
    write_plan(repository / "a" / "1" / "sm86.plan", "11.2.1.7")
    assert image_for(repository, "tensorrt") == "nvcr.io/nvidia/tritonserver:26.08-py3"
    write_plan(repository / "a" / "1" / older, "11.1.0.106")
    with pytest.raises(UsageError) as refused:
        docker_command(repository, "tensorrt")
    newer = "sm90.plan" if older == "sm86.plan" else "sm86.plan"
    assert f"got 11.1.0.106 (a/1/{older}) and 11.2.1.7 (a/1/{newer})" in str(refused.value)


def test_a_network_without_a_plan_makes_it_onnxruntime(tmp_path: Path) -> None:
    repository = write_repository(tmp_path, {"a": "11.1.0.106", "b": None})
    assert container_target(repository) == "onnxruntime"
    assert image_for(repository, "onnxruntime") == "nvcr.io/nvidia/tritonserver:26.08-py3"


def test_the_command(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "models", {"a": None})
    command = docker_command(repository, "onnxruntime", ports=(18000, 18001, 18002), response_cache_mib=64)
    assert command[:2] == ["docker", "run"]
    assert f"--volume={repository}:/models:ro" in command
    assert {"--publish=127.0.0.1:18000:8000", "--publish=127.0.0.1:18001:8001", "--read-only"} <= set(command)
    on_ipv6 = docker_command(repository, "onnxruntime", host="::1")
    assert "--publish=[::1]:8000:8000" in on_ipv6
    at = command.index("nvcr.io/nvidia/tritonserver:26.08-py3")
    assert command[at + 1] == "tritonserver"
    assert command[at + 2 :] == [
        "--model-repository=/models", "--model-config-name=onnxruntime", "--disable-auto-complete-config",
        "--exit-timeout-secs=30", *closing_options(), "--cache-config=local,size=67108864",
    ]  # fmt: skip
