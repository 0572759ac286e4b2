"""The segmentation that a PACS gets: the masks pixel for pixel on the slices that they are of, coded."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coronanet.model.assessment import assess
from coronanet.model.errors import UsageError
from coronanet.model.findings import Decisions
from coronanet.model.phantom import make_phantom
from coronanet.model.readers import Reading, find_inputs
from coronanet.model.study import Study
from coronanet.serving.dicom_out import write_dicom
from coronanet.serving.dicom_out.codes import SEGMENTS
from coronanet.serving.report import ModelRecord
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import segread
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage

SeriesWriter = Callable[..., list[Path]]
Plant = Callable[[], Decisions]
Models = tuple[ModelRecord, ...]


def read_one(folder: Path) -> Study:
    (study,) = (found.open(Reading()).complete() for found in find_inputs(folder))
    return study


def write(folder: Path, study: Study, decisions: Decisions, models: Models) -> Path:
    write_dicom(folder, study, decisions, assess(study, decisions), models)
    return folder / "segmentation.dcm"


def expected(decisions: Decisions, index: int) -> NDArray[np.uint8]:
    """uint8 ``[H, W, 4]`` of a slice, written out by hand."""
    types = decisions.lesion_types[index]
    return np.stack([decisions.lung_mask[index] > 0, types == 1, types == 2, types == 3], axis=-1).astype(np.uint8)


def nothing(slices: int) -> Decisions:
    empty = np.zeros((slices, 64, 64), np.uint8)
    return Decisions(np.zeros(slices, np.float32), empty, empty, empty)


TURNS: list[list[float]] = [
    [1, 0, 0, 0, 1, 0],
    [-1, 0, 0, 0, 1, 0],
    [-1, 0, 0, 0, -1, 0],
    [0, 1, 0, -1, 0, 0],
    [1, 0, 0, 0, 0.9703, 0.2419],
]


@pytest.mark.parametrize("turn", TURNS)
def test_every_source_slice_has_its_masks_whatever_its_order_and_orientation(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models, turn: list[float]
) -> None:
    height: dict[str, float] = {}

    def edit(_: int, dataset: FileDataset) -> None:
        dataset.ImageOrientationPatient = turn
        dataset.InstanceNumber = random.Random(int(dataset.ImagePositionPatient[2])).randrange(99)
        height[dataset.SOPInstanceUID] = float(dataset.ImagePositionPatient[2])

    paths = write_series(tmp_path / "chest", edit=edit)
    for path, name in zip(paths, random.Random(1).sample(range(100), len(paths)), strict=True):
        path.rename(path.with_name(f"IM{name}"))
    decisions = planted()
    segmentation = segread(write(tmp_path, read_one(tmp_path / "chest"), decisions, models))
    feet_to_head = sorted(height, key=lambda uid: height[uid])
    pixels = segmentation.get_pixels_by_source_instance(feet_to_head, ignore_spatial_locations=True)
    for index in range(6):
        np.testing.assert_array_equal(pixels[index], expected(decisions, index))


def test_frames_lie_where_their_source_slices_lie(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models
) -> None:
    """Read by hand, so that it does not hang on the library that wrote it."""
    positions = {
        dcmread(path).SOPInstanceUID: dcmread(path).ImagePositionPatient for path in write_series(tmp_path / "chest")
    }
    decisions = planted()
    dataset = dcmread(write(tmp_path, read_one(tmp_path / "chest"), decisions, models))
    assert dataset.NumberOfFrames == len(dataset.PerFrameFunctionalGroupsSequence) > 6
    for frame, pixels in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == positions[uid]
        index = sorted(positions, key=lambda each: positions[each][2]).index(uid)
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        np.testing.assert_array_equal(pixels, expected(decisions, index)[..., number - 1])


def test_it_belongs_to_the_study_and_space_of_its_source_and_says_whose_it_is(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models
) -> None:
    source = dcmread(write_series(tmp_path / "chest")[0])
    dataset = dcmread(write(tmp_path, read_one(tmp_path / "chest"), planted(), models))
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "AccessionNumber"):
        assert dataset[keyword].value == source[keyword].value
    (series,) = dataset.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID != dataset.SeriesInstanceUID
    assert len(series.ReferencedInstanceSequence) == 6
    assert (dataset.Modality, dataset.SegmentationType, dataset.Manufacturer) == ("SEG", "BINARY", "Corona-Net")
    assert dataset.ContentDescription == "Research use only. Not a medical device."
    assert dataset.ContentQualification == "RESEARCH"
    assert "research use only" in dataset.SeriesDescription


def test_segments_are_coded_and_name_the_network_that_found_them(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models
) -> None:
    write_series(tmp_path / "chest")
    dataset = dcmread(write(tmp_path, read_one(tmp_path / "chest"), planted(), models))
    found = [
        (
            item.SegmentLabel,
            item.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator,
            item.SegmentedPropertyTypeCodeSequence[0].CodeValue,
            item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName,
        )
        for item in dataset.SegmentSequence
    ]
    assert found == [
        ("Lung", "SCT", "39607008", "Corona-Net lung segmentation"),
        ("Ground glass opacity", "DCM", "112120", "Corona-Net multiclass segmentation"),
        ("Consolidation", "SCT", "95436008", "Corona-Net multiclass segmentation"),
        ("Pleural effusion", "SCT", "60046008", "Corona-Net multiclass segmentation"),
    ]
    lung, glass, *_ = (item.SegmentationAlgorithmIdentificationSequence for item in dataset.SegmentSequence)
    assert "bundle_sha256=unknown (served)" in lung[0].AlgorithmParameters
    assert AlgorithmIdentificationSequence.from_sequence(glass).parameters == {
        "bundle_sha256": "02" * 32,
        "backend": "openvino on triton",
        "precision": "fp32",
    }


def test_where_nothing_was_found_every_frame_says_so(
    tmp_path: Path, write_series: SeriesWriter, models: Models
) -> None:
    write_series(tmp_path / "chest")
    dataset = dcmread(write(tmp_path, read_one(tmp_path / "chest"), nothing(6), models))
    assert dataset.NumberOfFrames == 6 * len(SEGMENTS)
    assert not dataset.pixel_array.any()


def enhanced(folder: Path, paths: list[Path], places: list[int]) -> Path:
    """Single slices as the frames of one enhanced object, in the order of ``places``."""
    slices = [dcmread(paths[place]) for place in places]
    whole = dcmread(paths[0])
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    whole.NumberOfFrames = len(slices)
    whole.PixelData = b"".join(each.PixelData for each in slices)
    shared, orientation, measures, rescale = Dataset(), Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = whole.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024, "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([rescale])
    whole.SharedFunctionalGroupsSequence = Sequence([shared])
    whole.PerFrameFunctionalGroupsSequence = Sequence()
    for each in slices:
        frame, position = Dataset(), Dataset()
        position.ImagePositionPatient = each.ImagePositionPatient
        frame.PlanePositionSequence = Sequence([position])
        whole.PerFrameFunctionalGroupsSequence.append(frame)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(whole, keyword)
    folder.mkdir()
    whole.save_as(folder / "all.dcm")
    return folder


def test_frames_of_an_enhanced_object_have_their_masks(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models
) -> None:
    places = [3, 5, 0, 1, 4, 2]
    study = read_one(enhanced(tmp_path / "enhanced", write_series(tmp_path / "chest"), places))
    np.testing.assert_array_equal(study.image, make_phantom(size=64, slices=6).image)
    decisions = planted()
    segmentation = segread(write(tmp_path, study, decisions, models))
    uid = dcmread(tmp_path / "enhanced" / "all.dcm").SOPInstanceUID
    pixels = segmentation.get_pixels_by_source_frame(uid, list(range(1, 7)), ignore_spatial_locations=True)
    for frame, index in enumerate(places):
        np.testing.assert_array_equal(pixels[frame], expected(decisions, index))


def test_an_enhanced_object_of_which_not_every_frame_was_read_is_refused(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models
) -> None:
    study = read_one(enhanced(tmp_path / "enhanced", write_series(tmp_path / "chest"), [3, 5, 0, 1, 4, 2, 0]))
    with pytest.raises(UsageError, match="left out 1 of 7 frames"):
        write(tmp_path, study, planted(), models)


@pytest.mark.parametrize(
    ("charset", "name"),
    [("ISO_IR 100", "Müller^Jörg"), ("ISO_IR 126", "Διονυσιος"), ("ISO_IR 192", "Wang^XiaoDong=王^小東")],
)
def test_a_name_in_any_alphabet_is_the_same_name(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models, charset: str, name: str
) -> None:
    write_series(tmp_path / "chest", SpecificCharacterSet=charset, PatientName=name)
    write(tmp_path, read_one(tmp_path / "chest"), planted(), models)
    for file in ("segmentation.dcm", "report-sr.dcm"):
        assert str(dcmread(tmp_path / file).PatientName) == name


@pytest.mark.parametrize("missing", ["FrameOfReferenceUID", "StudyInstanceUID", "SOPInstanceUID"])
def test_a_source_that_cannot_be_referred_to_is_refused(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models, missing: str
) -> None:
    for path in write_series(tmp_path / "chest"):
        dataset = dcmread(path)
        delattr(dataset, missing)
        dataset.save_as(path)
    with pytest.raises(UsageError, match=f"has no {missing}, so no DICOM object can refer to it"):
        write(tmp_path, read_one(tmp_path / "chest"), planted(), models)
    assert not (tmp_path / "segmentation.dcm").exists()


def test_a_source_that_lacks_what_may_be_empty_is_taken(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models
) -> None:
    def edit(_: int, dataset: FileDataset) -> None:
        for keyword in ("PatientID", "PatientBirthDate", "StudyID", "ReferringPhysicianName", "Manufacturer"):
            delattr(dataset, keyword)

    write_series(tmp_path / "chest", edit=edit)
    assert write(tmp_path, read_one(tmp_path / "chest"), planted(), models).exists()


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_a_header_with_values_that_dicom_does_not_allow_is_taken_without_them(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models
) -> None:
    odd = {"PatientSex": "X", "StudyDate": "yesterday", "StudyTime": "noon", "PatientBirthDate": "1950"}
    write_series(tmp_path / "chest", **odd)
    dataset = dcmread(write(tmp_path, read_one(tmp_path / "chest"), planted(), models))
    assert [dataset[keyword].value for keyword in odd] == ["", "", "", ""]
    assert dataset.PatientID == "SECRET-7"


def test_a_study_that_is_not_dicom_is_refused(tmp_path: Path, models: Models) -> None:
    with pytest.raises(UsageError, match="was not read from DICOM"):
        write(tmp_path, make_phantom(size=64, slices=6), nothing(6), models)


def test_content_is_the_same_from_run_to_run_but_for_its_uids_and_times(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models
) -> None:
    def plain(dataset: Any) -> Any:
        if isinstance(dataset, Dataset):
            return {elem.keyword: plain(elem.value) for elem in dataset if elem.VR not in ("UI", "DA", "TM", "DT")}
        return [plain(item) for item in dataset] if isinstance(dataset, Sequence) else dataset

    write_series(tmp_path / "chest")
    runs: list[list[Any]] = []
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        write(tmp_path / run, read_one(tmp_path / "chest"), planted(), models)
        runs.append([plain(dcmread(tmp_path / run / name)) for name in ("segmentation.dcm", "report-sr.dcm")])
    assert runs[0] == runs[1]
