"""Of several series in a messy folder the right one is read, with a reason, and the others are named."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coronanet.model.errors import UsageError
from coronanet.model.phantom import make_phantom
from coronanet.model.readers import Reading, find_inputs, try_inputs
from coronanet.model.readers.dicom.headers import short_hash
from coronanet.model.study import Study
from pydicom.data import get_testdata_file
from pydicom.dataset import FileDataset
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage, generate_uid

SeriesWriter = Callable[..., list[Path]]
LUNG = {"SeriesNumber": 4, "ConvolutionKernel": "B70f"}
SOFT = {"SeriesNumber": 3, "ConvolutionKernel": "B30f"}


def phantom(slices: int = 6, between_mm: float = 40.0, value: int | None = None) -> Study:
    study = drawn(slices)
    image = study.image if value is None else np.full_like(study.image, value)
    assert study.spacing_mm is not None
    return replace(study, image=image, spacing_mm=(between_mm, *study.spacing_mm[1:]))


def read_one(path: Path, **options: Any) -> Study:
    (study,) = (found.open(Reading(**options)).complete() for found in find_inputs(path))
    return study


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        [found.open(Reading(**options)).complete() for found in find_inputs(path)]
    assert "\n" not in str(caught.value)
    assert "ecret" not in str(caught.value)
    return str(caught.value)


@cache
def drawn(slices: int) -> Study:
    return make_phantom(size=64, slices=slices)


@pytest.mark.parametrize(
    ("better", "worse", "reason"),
    [
        ({}, {"slices": 1}, "more than a single slice"),
        ({}, {"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, "no projection or reformat"),
        ({"BodyPartExamined": "CHEST"}, {"BodyPartExamined": "ABDOMEN", "slices": 12}, "filed as chest"),
        ({}, {"BodyPartExamined": "HEAD"}, "filed as chest"),
        ({}, {"slices": 3}, "covers the most of the chest"),
        ({"slices": 12, "between": 20.0}, {}, "thinnest"),
        (LUNG, SOFT, "kernel is one for lungs"),
        ({"ConvolutionKernel": "LUNG"}, {"ConvolutionKernel": "STANDARD"}, "kernel is one for lungs"),
        ({"ConvolutionKernel": ["Bl57f", "3"]}, {"ConvolutionKernel": ["Br36f", "3"]}, "kernel is one for lungs"),
        ({}, {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, "original"),
        ({"SeriesNumber": 1}, {"SeriesNumber": 9}, "comes first"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_the_series_that_shows_the_lungs_best_is_read(
    tmp_path: Path, write_series: SeriesWriter, better: dict[str, Any], worse: dict[str, Any], reason: str, first: bool
) -> None:
    for fields, value in ((better, -700), (worse, 40)) if first else ((worse, 40), (better, -700)):
        given = dict(fields)
        study = phantom(given.pop("slices", 6), given.pop("between", 40.0), value)
        write_series(tmp_path / "chest", study, **given)
    study = read_one(tmp_path / "chest")
    assert study.image[0, 0, 0] == -700
    (note,) = study.notes
    assert note.startswith("2 CT series lie here; ")
    assert reason in note


def test_a_longer_scan_of_the_body_is_not_better_than_a_chest(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path / "chest", phantom(20, 40.0, 40), **SOFT)
    write_series(tmp_path / "chest", phantom(7, 40.0, -700), **LUNG)
    assert read_one(tmp_path / "chest").image[0, 0, 0] == -700


def test_the_others_are_named_by_number_and_hash_and_can_be_chosen(tmp_path: Path, write_series: SeriesWriter) -> None:
    uid, lungs = generate_uid(), generate_uid()
    write_series(tmp_path / "chest", phantom(value=40), SeriesInstanceUID=uid, **SOFT)
    write_series(
        tmp_path / "chest", phantom(value=-700), SeriesInstanceUID=lungs, SeriesDescription="Secret lungs", **LUNG
    )
    (note,) = read_one(tmp_path / "chest").notes
    assert f"2 ({short_hash(lungs)}: 6 slices, 40 mm apart, lung kernel) was read" in note
    assert "left out: 1 (" in note
    assert "ecret" not in note
    assert uid not in note
    other = note.split("left out: 1 (")[1][:6]
    for wanted in ("1", other, other.upper(), uid):
        study = read_one(tmp_path / "chest", series=wanted)
        assert study.image[0, 0, 0] == 40
        assert "1 (" + other in study.notes[0]
        assert "asked for" in study.notes[0]


def test_a_series_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path / "chest")
    message = refusal(tmp_path / "chest", series="7")
    assert "has no series 7" in message
    assert "1 (" in message
    assert "6 slices" in message


def test_a_coronal_reformat_is_left_out_and_refused_when_asked_for(tmp_path: Path, write_series: SeriesWriter) -> None:
    coronal = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]
    write_series(tmp_path / "chest", SeriesNumber=1)
    write_series(tmp_path / "chest", phantom(9), ImageOrientationPatient=coronal, SeriesNumber=2)
    study = read_one(tmp_path / "chest")
    assert len(study.image) == 6
    assert "only axial" in study.notes[0]
    assert "not axial" in study.notes[0]
    assert "is not axial" in refusal(tmp_path / "chest", series="2")


@pytest.mark.parametrize(
    "odd",
    [
        {"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]},
        {"ImageOrientationPatient": [0.0, 1.0, 0.0, -1.0, 0.0, 0.0]},
        {"PixelSpacing": [0.5, 0.5]},
        {"FrameOfReferenceUID": generate_uid()},
        {"Rows": 32, "Columns": 128},
    ],
)
def test_slices_of_one_series_that_make_no_volume_with_the_rest_are_left_out(
    tmp_path: Path, write_series: SeriesWriter, odd: dict[str, Any]
) -> None:
    def edit(index: int, dataset: FileDataset) -> None:
        for keyword, value in odd.items() if index in (1, 4) else ():
            setattr(dataset, keyword, value)

    write_series(tmp_path / "chest", phantom(8), edit=edit)
    study = read_one(tmp_path / "chest")
    np.testing.assert_array_equal(study.image, phantom(8).image[[0, 2, 3, 5, 6, 7]])
    assert "left out: 2 (" in study.notes[0]


def test_a_series_that_cannot_be_read_does_not_spoil_another(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path / "chest", phantom(9), edit=lambda index, dataset: delattr(dataset, "RescaleSlope"))
    write_series(tmp_path / "chest", phantom(6))
    study = read_one(tmp_path / "chest")
    assert len(study.image) == 6
    (note,) = study.notes
    assert "cannot be read: one of its files has no RescaleSlope" in note


def test_objects_that_are_no_axial_ct_are_counted_by_kind(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path / "chest")
    none = phantom(1)
    write_series(tmp_path / "chest", none, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(tmp_path / "chest", none, SOPClassUID=SecondaryCaptureImageStorage, Modality="OT")
    write_series(tmp_path / "chest", none, SOPClassUID=EncapsulatedPDFStorage, Modality="SECRET NAME")
    study = read_one(tmp_path / "chest")
    assert study.notes == ("Left out: 1 CT localizer, 1 OT, 1 unknown",)


def test_one_study_in_many_folders_is_one_and_many_in_one_folder_are_many(
    tmp_path: Path, write_series: SeriesWriter
) -> None:
    write_series(tmp_path / "export" / "p1" / "s1", phantom(value=40), **SOFT)
    write_series(tmp_path / "export" / "p1" / "s2" / "deep", phantom(value=-700), **LUNG)
    for _ in range(2):
        write_series(tmp_path / "export" / "flat", phantom(2), StudyInstanceUID=generate_uid())
    studies = [found.open(Reading()).complete() for found in find_inputs(tmp_path / "export")]
    assert sorted(study.name for study in studies) == ["flat", "flat", "p1"]
    (p1,) = (study for study in studies if study.name == "p1")
    assert p1.image[0, 0, 0] == -700


def test_a_damaged_file_spoils_its_own_study_alone(tmp_path: Path, write_series: SeriesWriter) -> None:
    for name in ("a", "b"):
        paths = write_series(tmp_path / "all" / name, StudyInstanceUID=generate_uid())
    paths[2].write_bytes(paths[2].read_bytes()[:300])
    found = list(try_inputs([tmp_path / "all"]))
    assert [type(item).__name__ for item in found] == ["Study", "Unreadable"]


def test_files_beside_dicom_are_counted_and_the_index_and_hidden_files_passed_by(
    tmp_path: Path, write_series: SeriesWriter
) -> None:
    folder = tmp_path / "chest"
    write_series(folder)
    for name in ("a.png", "b.nii.gz", "readme.txt", ".hidden.png", "DICOMDIR"):
        (folder / name).write_bytes(b"x")
    (folder / "older").mkdir()
    (note,) = read_one(folder).notes
    assert "2 files that are not" in note


def test_images_hide_the_folders_below_them(tmp_path: Path, write_series: SeriesWriter) -> None:
    write_series(tmp_path / "mixed" / "below")
    (tmp_path / "mixed" / "a.nii").write_bytes(b"x")
    assert "a.nii" in refusal(tmp_path / "mixed")


def test_an_archive_of_pydicom_with_indices_and_many_kinds_is_searched(tmp_path: Path) -> None:
    index = get_testdata_file("DICOMDIR-bigEnd", download=False)
    assert isinstance(index, str)
    found = list(try_inputs([Path(index).parent]))
    # Its images have no pixels; every one is named in one line, none stops the others.
    assert len(found) > 3
    assert all("\n" not in str(getattr(item, "reason", "")) for item in found)
