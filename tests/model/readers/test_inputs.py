"""What a path given by a person stands for."""

import random
from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest
from coronanet.model.errors import UsageError
from coronanet.model.readers import NAMED_WINDOWS, Reading, Unreadable, find_inputs, try_inputs
from coronanet.model.study import Study
from pydicom import examples

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
    assert [found.open(Reading(LUNG)).complete().name for found in find_inputs(mixed)] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["missing.png", "empty", "notes.txt"])
def test_what_holds_nothing_readable_is_one_line_that_says_what_is_expected(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=r"expected.*DICOM series, NIfTI") as caught:
        [found.open(Reading()).complete() for found in find_inputs(tmp_path / name)]
    assert str(tmp_path / name) in str(caught.value)


def test_one_that_cannot_be_read_does_not_stop_the_others(mixed: Path) -> None:
    found = list(try_inputs([mixed / "missing.png", mixed], window=None))
    assert [type(item).__name__ for item in found] == ["Unreadable", "Unreadable", "Unreadable", "Study"]
    assert isinstance(found[1], Unreadable)
    assert "--window" in found[1].reason


def dicom_bytes() -> bytes:
    """pydicom's own small CT slice."""
    return examples.get_path("ct").read_bytes()


def nifti_bytes() -> bytes:
    return nib.Nifti1Image(np.full((9, 8, 3), -800, np.int16), np.diag([-1.0, -1, 2, 1])).to_bytes()


def png_bytes() -> bytes:
    return cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (16, 16), np.uint8))[1].tobytes()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("name", "make"), [("x.dcm", dicom_bytes), ("x.nii", nifti_bytes), ("x.png", png_bytes)])
def test_a_file_with_changed_bytes_is_read_or_refused_in_one_line(
    tmp_path: Path, name: str, make: Callable[[], bytes]
) -> None:
    intact, path = make(), tmp_path / name
    path.write_bytes(intact)
    assert len([found.open(Reading(LUNG)).complete() for found in find_inputs(path)]) == 1
    chance = random.Random(4)
    for _ in range(150):
        data = bytearray(intact)
        for _ in range(chance.choice((1, 3))):
            # The header, where a byte means most.
            data[chance.randrange(min(len(data), 1500))] = chance.randrange(256)
        path.write_bytes(data)
        (found,) = try_inputs([path], window=LUNG)
        assert isinstance(found, Study) or "\n" not in found.reason
