"""DICOM as scanners and archives write it, and as it goes wrong."""

import random
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from coronanet.model.errors import MissingPackageError, UsageError
from coronanet.model.readers import Reading, find_inputs
from coronanet.model.study import Study
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

SERIES = generate_uid(entropy_srcs=["series"])


def ct_slice(z: float, value: int, **changes: Any) -> FileDataset:
    """One CT slice of 6 x 8 pixels with stored value ``value`` and HU ``value * 2 - 1000``."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = changes.get("SOPClassUID", CTImageStorage)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    fields: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": SERIES,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientName": "Secret^Name",
        "PatientID": "SECRET-7",
        "InstanceNumber": 1,
        "Rows": 6,
        "Columns": 8,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "ImagePositionPatient": [-30.0, -20.0, z],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [0.8, 0.7],
        "SliceThickness": 2.0,
        "RescaleSlope": 2,
        "RescaleIntercept": -1000,
    }
    pixels = np.full((6, 8), value, np.uint16)
    pixels[0, 7] = value + 1  # front left of the patient
    fields["PixelData"] = pixels.tobytes()
    for keyword, item in (fields | changes).items():
        if item is not None:
            setattr(dataset, keyword, item)
    return dataset


def save(folder: Path, *datasets: FileDataset) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    start = len(list(folder.iterdir()))
    for index, dataset in enumerate(datasets):
        dataset.save_as(folder / f"IM{start + index:04d}", enforce_file_format=True)
    return folder


def read_one(path: Path) -> Study:
    (study,) = (found.open(Reading()).complete() for found in find_inputs(path))
    return study


def refusal(path: Path) -> str:
    with pytest.raises(UsageError) as caught:
        [found.open(Reading()).complete() for found in find_inputs(path)]
    message = str(caught.value)
    assert "\n" not in message
    assert "Secret" not in message
    return message


def test_a_series_is_sorted_by_position_whatever_its_names_and_numbers(tmp_path: Path) -> None:
    slices = [ct_slice(z=2.5 * index, value=100 + index, InstanceNumber=50 - index) for index in range(7)]
    random.Random(3).shuffle(slices)
    study = read_one(save(tmp_path / "chest", *slices))
    assert study.name == "chest"
    assert study.kind == "dicom"
    assert study.image.dtype == np.int16
    np.testing.assert_array_equal(study.image[:, 3, 3], [2 * (100 + index) - 1000 for index in range(7)])
    assert study.spacing_mm == (2.5, 0.8, 0.7)
    assert study.notes == ()


def test_the_affine_takes_voxels_to_ras_millimetres(tmp_path: Path) -> None:
    study = read_one(save(tmp_path / "chest", *(ct_slice(z=10 + 3.0 * index, value=1) for index in range(4))))
    assert study.affine is not None
    column, row, index = 7, 5, 2
    # LPS (-30 + 7 * .7, -20 + 5 * .8, 10 + 2 * 3), first two axes turned.
    np.testing.assert_allclose(study.affine @ [column, row, index, 1], [30 - 4.9, 20 - 4.0, 16, 1], atol=1e-9)


def test_a_series_stored_head_first_with_a_downward_normal_still_runs_feet_to_head(tmp_path: Path) -> None:
    mirrored = [-1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    slices = [ct_slice(z=-4.0 * index, value=index, ImageOrientationPatient=mirrored) for index in range(5)]
    study = read_one(save(tmp_path / "chest", *slices))
    np.testing.assert_array_equal(study.image[:, 3, 3], [2 * index - 1000 for index in (4, 3, 2, 1, 0)])
    assert study.affine is not None
    assert study.affine[2, 2] == pytest.approx(4.0)
    assert any("mirrored" in note for note in study.notes)


def test_a_tilted_gantry_keeps_its_true_affine_and_is_said(tmp_path: Path) -> None:
    slices = [ct_slice(z=3.0 * i, value=i, ImagePositionPatient=[-30.0, -20.0 + i, 3.0 * i]) for i in range(4)]
    study = read_one(save(tmp_path / "chest", *slices))
    assert study.affine is not None
    np.testing.assert_allclose(study.affine[:3, 2], [0, -1, 3], atol=1e-9)
    assert study.spacing_mm is not None
    assert study.spacing_mm[0] == pytest.approx(3.0)
    assert any("tilted" in note for note in study.notes)


def test_signed_pixels_are_read_signed(tmp_path: Path) -> None:
    pixels = np.full((6, 8), -500, np.int16)
    dataset = ct_slice(0, 0, PixelRepresentation=1, RescaleSlope=1, RescaleIntercept=0, PixelData=pixels.tobytes())
    study = read_one(save(tmp_path / "chest", dataset))
    assert (study.image == -500).all()


def test_a_single_file_without_suffix_is_recognised_by_its_content(tmp_path: Path) -> None:
    file = save(tmp_path, ct_slice(0, 10)) / "IM0000"
    study = read_one(file)
    assert study.name == "IM0000"
    assert study.spacing_mm == (2.0, 0.8, 0.7)


def test_a_single_slice_without_thickness_has_no_spacing_and_says_so(tmp_path: Path) -> None:
    study = read_one(save(tmp_path / "chest", ct_slice(0, 10, SliceThickness=None)))
    assert study.spacing_mm is None
    assert study.affine is not None
    assert any("without thickness" in note for note in study.notes)


@pytest.mark.filterwarnings("ignore:Invalid value for VR DS")
@pytest.mark.parametrize("thickness", [0, -2.0, "nan", "inf"])
def test_a_thickness_that_no_slice_can_have_is_none(tmp_path: Path, thickness: object) -> None:
    study = read_one(save(tmp_path / "chest", ct_slice(0, 10, SliceThickness=thickness)))
    assert study.spacing_mm is None
    assert study.affine is not None
    assert study.affine[2, 2] == 1.0


def enhanced(count: int, *, positions: bool = True) -> FileDataset:
    """An enhanced multi-frame object whose frames lie head to feet, rescaled frame by frame."""
    pixels = np.stack([np.full((6, 8), index, np.uint16) for index in range(count)])
    dataset = ct_slice(
        0,
        0,
        SOPClassUID=EnhancedCTImageStorage,
        NumberOfFrames=count,
        PixelData=pixels.tobytes(),
        **dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")),
        RescaleSlope=None,
        RescaleIntercept=None,
    )
    if not positions:
        return dataset
    shared, orientation, measures = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    measures.PixelSpacing, measures.SliceThickness = [0.8, 0.7], 5.0
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    frames: list[Dataset] = []
    for index in range(count):
        frame, position, rescale = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [-30.0, -20.0, -5.0 * index]
        rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, 10 * index - 900, "HU"
        frame.PlanePositionSequence = Sequence([position])
        frame.PixelValueTransformationSequence = Sequence([rescale])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return dataset


def test_an_enhanced_object_is_sorted_and_rescaled_frame_by_frame(tmp_path: Path) -> None:
    study = read_one(save(tmp_path / "enhanced", enhanced(4)))
    np.testing.assert_array_equal(study.image[:, 0, 0], [11 * index - 900 for index in (3, 2, 1, 0)])
    assert study.spacing_mm == (5.0, 0.8, 0.7)


def test_frames_without_positions_are_refused(tmp_path: Path) -> None:
    assert "holds 3 frames but does not say where they lie" in refusal(
        save(tmp_path / "x", enhanced(3, positions=False))
    )


def test_the_largest_ct_series_is_read_and_the_others_are_said_without_their_uids(tmp_path: Path) -> None:
    other = generate_uid()
    folder = save(tmp_path / "chest", *(ct_slice(float(index), 5) for index in range(4)))
    save(folder, ct_slice(0, 9, SeriesInstanceUID=other), ct_slice(1, 9, SeriesInstanceUID=other))
    save(folder, ct_slice(0, 9, SeriesInstanceUID=generate_uid(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    save(folder, ct_slice(0, 9, SeriesInstanceUID=generate_uid(), Modality="MR", SOPClassUID=MRImageStorage))
    (folder / "readme.txt").write_text("not an image")
    study = read_one(folder)
    assert study.image.shape == (4, 6, 8)
    notes = " ".join(study.notes)
    assert "2 CT series lie here" in notes
    assert "1 CT localizer, 1 MR" in notes
    for secret in (SERIES, other, "Secret", "SECRET"):
        assert secret not in notes


def test_copies_of_a_slice_are_read_once_and_said(tmp_path: Path) -> None:
    twin = ct_slice(1.0, 6)
    study = read_one(save(tmp_path / "chest", ct_slice(0.0, 5), twin, twin, ct_slice(2.0, 7)))
    assert len(study.image) == 3
    assert any("copies" in note for note in study.notes)


def test_slices_with_an_empty_uid_are_no_copies_of_each_other(tmp_path: Path) -> None:
    study = read_one(save(tmp_path / "chest", *(ct_slice(float(index), 5, SOPInstanceUID="") for index in range(3))))
    assert len(study.image) == 3
    assert study.notes == ()


def test_of_two_slices_at_one_position_the_first_acquired_is_read(tmp_path: Path) -> None:
    late = [ct_slice(float(i), 50, AcquisitionNumber=2, InstanceNumber=i) for i in range(3)]
    early = [ct_slice(float(i), 5, AcquisitionNumber=1, InstanceNumber=90 + i) for i in range(3)]
    study = read_one(save(tmp_path / "chest", *late, *early))
    assert (study.image[:, 3, 3] == 2 * 5 - 1000).all()
    assert any("Slices at a position that another slice has: 3" in note for note in study.notes)


def test_a_missing_slice_is_said_and_does_not_stretch_the_spacing(tmp_path: Path) -> None:
    study = read_one(save(tmp_path / "chest", *(ct_slice(2.0 * index, 5) for index in (0, 1, 2, 4, 5))))
    assert study.spacing_mm is not None
    assert study.spacing_mm[0] == pytest.approx(2.0)
    assert any("1 gaps wider" in note for note in study.notes)
    assert study.positions_mm is not None
    np.testing.assert_allclose(np.diff(study.positions_mm), [2, 2, 4, 2])


def test_slices_that_are_evenly_apart_need_no_positions(tmp_path: Path) -> None:
    assert read_one(save(tmp_path / "chest", *(ct_slice(2.0 * index, 5) for index in range(4)))).positions_mm is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RescaleSlope": None}, "has no RescaleSlope"),
        ({"RescaleIntercept": None}, "has no RescaleIntercept"),
        ({"RescaleType": "OD"}, "rescaled to OD"),
        ({"RescaleType": "O\nD\x1b"}, "rescaled to OD"),
        ({"Modality": "MR", "SOPClassUID": MRImageStorage}, "is not axial CT (it holds MR)"),
        ({"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0]}, "coronal or sagittal"),
        ({"ImagePositionPatient": None}, "has no ImagePositionPatient"),
        ({"PixelSpacing": [0.0, 0.7]}, "broken PixelSpacing"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "holds RGB pixels"),
        ({"RescaleSlope": 1000}, "Hounsfield units between -32768 and 32767"),
        ({"Rows": 60000, "Columns": 60000}, "is too large"),
        ({"Rows": 600}, "its pixels cannot be decoded"),
    ],
)
def test_what_is_not_a_ct_slice_in_hounsfield_units_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in refusal(save(tmp_path / "chest", ct_slice(0, 100, **changes)))


@pytest.mark.parametrize("keep", [140, 400, -10])
def test_a_truncated_file_spoils_its_series_wherever_it_was_cut(tmp_path: Path, keep: int) -> None:
    folder = save(tmp_path / "chest", ct_slice(0.0, 5), ct_slice(1.0, 5))
    file = folder / "IM0001"
    file.write_bytes(file.read_bytes()[:keep])
    message = refusal(folder)
    assert "IM0001" in message
    assert "truncated" in message or "copy it again" in message


def test_a_number_of_the_wrong_length_is_a_damaged_file(tmp_path: Path) -> None:
    file = save(tmp_path / "chest", ct_slice(0, 1)) / "IM0000"
    # Rows, two bytes long, are said to be three.
    file.write_bytes(file.read_bytes().replace(b"\x28\0\x10\0US\x02\0", b"\x28\0\x10\0US\x03\0"))
    assert "IM0000" in refusal(file)


@pytest.mark.parametrize("error", [MemoryError, zlib.error])
def test_a_decoder_that_gives_up_is_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def give_up(*_: object, **__: object) -> None:
        raise error

    file = save(tmp_path / "chest", ct_slice(0, 1)) / "IM0000"
    monkeypatch.setattr(pydicom, "dcmread", give_up)
    assert "not a readable DICOM file" in refusal(file)


def test_a_file_that_is_dicom_only_by_name_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.dcm"
    file.write_bytes(b"hello")
    assert "not a readable DICOM file" in refusal(file)


def test_pydicom_missing_is_one_line_with_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "chest", ct_slice(0, 1))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingPackageError, match=r"needs pydicom.*coronanet\[dicom\]"):
        [found.open(Reading()).complete() for found in find_inputs(folder)]


def test_a_header_value_never_reaches_the_terminal_as_a_warning(
    tmp_path: Path,
    recwarn: pytest.WarningsRecorder,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = save(tmp_path / "chest", ct_slice(0, 1)) / "IM0000"
    file.write_bytes(file.read_bytes().replace(str(SERIES).encode(), b"Secret^Name".ljust(len(str(SERIES)), b"x")))
    read_one(file)
    assert not recwarn.list
    captured = capfd.readouterr()
    assert "Secret" not in captured.out + captured.err + caplog.text
