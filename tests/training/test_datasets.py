"""No patient crosses a split, no test split is opened, and a label says no more than it knows."""

from pathlib import Path

import numpy as np
import pytest
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TASK_NAMES, TaskName
from coronanet.training.datasets import SOURCES, groups, load_split, plethora, radiopaedia


@pytest.mark.parametrize("task", TASK_NAMES)
def test_no_patient_is_on_both_sides_and_no_test_split_is_opened(data: Path, task: TaskName) -> None:
    split = load_split(task, data)
    assert split.train
    assert split.validation
    assert not groups(split.train) & groups(split.validation)
    for _, reader in SOURCES[task]:
        for path, _ in reader(data):
            assert "test" not in path.relative_to(data).parts


def test_the_fingerprint_is_of_the_files(data: Path) -> None:
    one, again = load_split("lung_segmentation", data), load_split("lung_segmentation", data)
    assert one.sha256 == again.sha256
    assert one.sha256 != load_split("binary_segmentation", data).sha256


def test_the_kind_of_a_lesion_is_taught_only_where_it_is_exact(synthetic_data: Path) -> None:
    supervisions = {path.stem: sample for path, sample in radiopaedia(synthetic_data)}
    for sample in supervisions.values():
        if sample.supervision == "lesion":
            assert set(np.unique(sample.labels)) <= {0, 1}
        else:
            assert sample.supervision == "types"
            assert set(np.unique(sample.labels)) <= {0, 1, 2}
    assert {sample.supervision for sample in supervisions.values()} == {"types", "lesion"}


def test_plethora_is_read_in_its_own_window(data: Path) -> None:
    _, sample = next(iter(plethora(data)))
    assert sample.supervision == "effusion"
    assert sample.image.min() >= -1024
    assert sample.image.max() <= 506


def test_a_folder_without_the_data_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--data must be the folder that holds the data sets"):
        load_split("lung_segmentation", tmp_path)


def test_a_broken_picture_is_named(synthetic_data: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "data"
    shutil.copytree(synthetic_data, copy)
    broken = sorted((copy / "radiopaedia9_medseg2" / "images").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UsageError, match=broken.name):
        load_split("lung_segmentation", copy)
