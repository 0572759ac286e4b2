"""No patient crosses a split, no test split is opened, and a label says no more than it knows."""

import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from coronanet.engines.datasets import SOURCES, Entry, Report, groups, load_split, plethora, radiopaedia
from coronanet.model.errors import UsageError
from coronanet.model.tasks import TASK_NAMES, TaskName
from coronanet.training.recipes import SEGMENTATIONS


@pytest.fixture(scope="module")
def real(data: Path) -> Generator[Path]:
    """The real data sets, each read once however often it is asked for."""

    def once(reader: Callable[[Path, Report | None], Iterator[Entry]]) -> Callable[..., Iterator[Entry]]:
        def read(folder: Path, report: Report | None = None) -> Iterator[Entry]:
            if folder != data:
                return reader(folder, report)
            if reader not in entries:
                entries[reader] = list(reader(folder, report))
            return iter(entries[reader])

        return read

    entries: dict[object, list[Entry]] = {}
    with pytest.MonkeyPatch.context() as patch:
        for task, sources in list(SOURCES.items()):
            patch.setitem(SOURCES, task, tuple((name, once(reader)) for name, reader in sources))
        yield data


@pytest.mark.parametrize("task", TASK_NAMES)
def test_no_patient_is_on_both_sides_and_no_test_split_is_opened(real: Path, task: TaskName) -> None:
    split = load_split([task], real)
    assert split.train
    assert split.validation
    assert not groups(split.train) & groups(split.validation)
    for _, reader in SOURCES[task]:
        for path, _ in reader(real, None):
            assert "test" not in path.relative_to(real).parts


def test_the_fingerprint_is_of_the_files(synthetic_data: Path, real: Path) -> None:
    one, again = load_split(["lung_segmentation"], synthetic_data), load_split(["lung_segmentation"], synthetic_data)
    assert one.sha256 == again.sha256
    assert load_split(["lung_segmentation"], real).sha256 != load_split(["binary_segmentation"], real).sha256


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
        load_split(["lung_segmentation"], tmp_path)


def test_tasks_together_read_every_set_once(real: Path) -> None:
    together = load_split(SEGMENTATIONS, real)
    assert together.sources == ("MedSeg train", "Radiopaedia", "PleThora")
    assert len(together.train) == len(load_split(["multiclass_segmentation"], real).train)


def test_lungs_are_known_where_somebody_drew_them_and_only_there(synthetic_data: Path, data: Path) -> None:
    for path, sample in radiopaedia(synthetic_data):
        drawn = cv2.imread(str(path.parents[1] / "lung" / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        assert sample.lung is not None
        np.testing.assert_array_equal(sample.lung, drawn == 255)
    assert next(iter(plethora(data)))[1].lung is None


@pytest.fixture
def damaged(synthetic_data: Path, tmp_path: Path) -> Path:
    """A copy of the data set in which one picture of 24 is cut off."""
    copy = tmp_path / "data"
    shutil.copytree(synthetic_data, copy)
    cut_off(copy, 3)
    return copy


def cut_off(folder: Path, index: int) -> str:
    path = sorted((folder / "radiopaedia9_medseg2" / "images").iterdir())[index]
    # Half of it is there: OpenCV alone would fill the rest with grey and say nothing.
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return path.name


def test_a_broken_picture_is_named(damaged: Path) -> None:
    with pytest.raises(UsageError, match=r"r1_z003\.jpg is damaged or truncated"):
        load_split(["lung_segmentation"], damaged)


def test_a_broken_picture_is_left_out_and_told_of(damaged: Path, synthetic_data: Path) -> None:
    told: list[str] = []
    split = load_split(["lung_segmentation"], damaged, lambda error: told.append(str(error)))
    assert len(told) == 1
    assert "r1_z003.jpg" in told[0]
    whole = load_split(["lung_segmentation"], synthetic_data)
    assert len(split.train) == len(whole.train) - 1
    assert split.sha256 != whole.sha256


def test_too_many_broken_pictures_are_an_error(damaged: Path) -> None:
    cut_off(damaged, 4)
    with pytest.raises(UsageError, match=r"2 of 24 pictures cannot be read.*r1_z004\.jpg"):
        load_split(["lung_segmentation"], damaged, lambda error: None)


def test_labels_of_another_size_than_the_picture_are_named(synthetic_data: Path, tmp_path: Path) -> None:
    for kind in ("lesion", "lung"):
        shutil.copytree(synthetic_data, tmp_path / kind)
        path = tmp_path / kind / "radiopaedia9_medseg2" / kind / "r1_z003.png"
        cv2.imwrite(str(path), np.zeros((64, 128), np.uint8))
        with pytest.raises(UsageError, match=r"r1_z003.* is 64 x 128.* 128 x 128"):
            load_split(["lung_segmentation"], tmp_path / kind)
