"""What a path given by a person stands for."""

from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest
from coronanet.model.errors import UsageError
from coronanet.model.readers import NAMED_WINDOWS, Unreadable, read_inputs, try_inputs

LUNG = NAMED_WINDOWS["lung"]


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A folder with a volume, two images, a text, a hidden file and a folder of results."""
    nib.save(nib.Nifti1Image(np.full((4, 4, 2), -800, np.int16), np.diag([-1.0, -1, 1, 1])), tmp_path / "c.nii.gz")
    for name in ("b.png", "a.JPG", ".hidden.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8), np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "results").mkdir()
    cv2.imwrite(str(tmp_path / "results" / "overlay.png"), np.zeros((8, 8), np.uint8))
    return tmp_path


def test_each_image_and_volume_of_a_folder_is_a_study_and_its_subfolders_are_left_alone(mixed: Path) -> None:
    assert [study.name for study in read_inputs([mixed], window=LUNG)] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["missing.png", "empty", "notes.txt"])
def test_what_holds_nothing_readable_is_one_line_that_says_what_is_expected(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"expected.*DICOM series, NIfTI") as caught:
        list(read_inputs([tmp_path / name]))
    assert str(tmp_path / name) in str(caught.value)


def test_one_that_cannot_be_read_does_not_stop_the_others(mixed: Path) -> None:
    found = list(try_inputs([mixed / "missing.png", mixed], window=None))
    assert [type(item).__name__ for item in found] == ["Unreadable", "Unreadable", "Unreadable", "Study"]
    assert isinstance(found[1], Unreadable)
    assert "--window" in found[1].reason
