"""A bundle is whole, unchanged, or refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from coronanet.engines.bundle import MANIFEST, Bundle, publish
from coronanet.export.shipped import provide_bundles
from coronanet.model.errors import RefusedError, UsageError
from coronanet.model.tasks import TaskName

FILES = (
    "card.json",
    "weights.safetensors",
    "preprocess.onnx",
    "decide.onnx",
    "network.fp32.onnx",
    "network.fp16.onnx",
)


@pytest.fixture
def copy(bundles: dict[TaskName, Bundle], tmp_path: Path) -> Path:
    folder = tmp_path / "lung_segmentation"
    shutil.copytree(bundles["lung_segmentation"].path, folder)
    return folder


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_in_any_file_is_refused_by_name(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(RefusedError, match=rf"{name} was changed after export .*coronanet export.*#corrupted-file"):
        Bundle.open(copy)


def test_a_missing_file_is_refused_by_name(copy: Path) -> None:
    (copy / "decide.onnx").unlink()
    with pytest.raises(RefusedError, match=r"decide\.onnx is missing.*#corrupted-file"):
        Bundle.open(copy)


def test_two_swapped_files_are_refused(copy: Path) -> None:
    one, other = copy / "preprocess.onnx", copy / "decide.onnx"
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(RefusedError, match=r"was changed after export.*#corrupted-file"):
        Bundle.open(copy)


def test_a_file_that_the_manifest_does_not_list_is_refused(copy: Path) -> None:
    (copy / "network.fp8.onnx").write_bytes(b"")
    with pytest.raises(RefusedError, match=r"network\.fp8\.onnx is not in the manifest.*#corrupted-file"):
        Bundle.open(copy)


def test_a_manifest_that_names_a_file_outside_is_refused(copy: Path) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][0]["path"] = "../card.json"
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RefusedError, match=r"outside the bundle, \.\./card\.json: export it again.*#corrupted-file"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda manifest: manifest.update(colour="red"), "colour"),
        (lambda manifest: manifest.pop("tools"), "tools"),
        (lambda manifest: manifest["files"][2].pop("sha256"), "files.2.sha256"),
    ],
)
def test_an_unknown_or_missing_key_of_the_manifest_is_named(
    copy: Path, edit: Callable[[dict[str, Any]], object], named: str
) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    edit(manifest)
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RefusedError, match=rf"{named}.*export it again.*#corrupted-file"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda manifest: manifest.update(name="classification"), "is classification, its card says lung_segmentation"),
        (lambda manifest: manifest["files"].append(manifest["files"][0]), "lists a file twice"),
        (lambda manifest: manifest["files"].remove(manifest["files"][0]), r"does not list card\.json"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    copy: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    manifest = json.loads((copy / MANIFEST).read_text())
    edit(manifest)
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(RefusedError, match=rf"{message}: export it again.*#corrupted-file"):
        Bundle.open(copy)


def test_a_truncated_manifest_is_refused_with_the_remedy(copy: Path) -> None:
    (copy / MANIFEST).write_bytes((copy / MANIFEST).read_bytes()[:100])
    with pytest.raises(RefusedError, match=r"is not a valid manifest.*export it again.*#corrupted-file"):
        Bundle.open(copy)


def test_a_bundle_under_the_name_of_another_task_is_refused(bundles: dict[TaskName, Bundle], tmp_path: Path) -> None:
    for name, bundle in bundles.items():
        shutil.copytree(bundle.path, tmp_path / name)
    shutil.rmtree(tmp_path / "binary_segmentation")
    shutil.copytree(tmp_path / "lung_segmentation", tmp_path / "binary_segmentation")
    with pytest.raises(RefusedError, match="binary_segmentation holds lung_segmentation"):
        provide_bundles(tmp_path)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no bundle at"):
        Bundle.open(tmp_path)


def test_a_failed_publish_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with publish(target) as work:
        (work / "file").write_text("old")
    with pytest.raises(RuntimeError):
        _publish_half(target)
    assert (target / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_publish_replaces_the_old_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    for name in ("first", "second"):
        with publish(target) as work:
            (work / name).write_text(name)
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def _publish_half(target: Path) -> None:
    with publish(target) as work:
        (work / "file").write_text("new")
        raise RuntimeError
