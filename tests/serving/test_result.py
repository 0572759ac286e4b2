"""The files of a result: on the input's own grid, complete, and never over something else."""

import json
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pytest
from coronanet.model.assessment import assess
from coronanet.model.errors import UsageError
from coronanet.model.findings import Decisions
from coronanet.model.lungs import Cleaning
from coronanet.model.phantom import make_labelled_phantom
from coronanet.model.readers import Reading, find_inputs, parse_window
from coronanet.model.study import Study
from coronanet.serving import result
from coronanet.serving.report import ModelRecord
from coronanet.serving.result import write_result
from numpy.typing import NDArray

MODELS = (ModelRecord("classification", "ab" * 32, "onnxruntime", "fp32"),)


def decide(study: Study) -> Decisions:
    """A lesion where the image is above zero, of a type that depends on the place."""
    mask = (study.image > 0).astype(np.uint8)
    types = (mask * (1 + np.arange(study.image.shape[2]) % 3)).astype(np.uint8)
    return Decisions(np.full(len(mask), 0.25, np.float32), mask, types, np.ones_like(mask))


def write(folder: Path, study: Study) -> dict[str, object]:
    decisions = decide(study)
    assessment = assess(study, decisions)
    write_result(folder, study, decisions, assessment, MODELS, cleaning=Cleaning(0, 0, 0), inference_ms=12.0)
    return json.loads((folder / "report.json").read_text())


def affine_of(path: Path) -> NDArray[np.float64]:
    return np.asarray(nib.Nifti1Image.from_filename(path).affine, np.float64)


def codes_of(path: Path) -> tuple[int, int]:
    header: Any = nib.Nifti1Image.from_filename(path).header
    return int(header["qform_code"]), int(header["sform_code"])


def ct() -> NDArray[np.int16]:
    return np.random.default_rng(0).integers(-1000, 1000, (20, 24, 6), np.int16)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL"])
def test_masks_of_a_nifti_lie_on_its_voxels_in_its_affine(tmp_path: Path, axes: str) -> None:
    source = nib.Nifti1Image(ct(), np.array([[0.7, 0.1, 0, -40], [-0.1, 0.8, 0, 30], [0, 0, 5.0, -200], [0, 0, 0, 1]]))
    transform = nib.orientations.ornt_transform(
        nib.io_orientation(source.affine), nib.orientations.axcodes2ornt(tuple(axes))
    )
    turned = source.as_reoriented(transform.astype(int).tolist())
    nib.save(turned, tmp_path / "p.nii.gz")
    (study,) = (found.open(Reading()).complete() for found in find_inputs(tmp_path / "p.nii.gz"))
    write(tmp_path / "out" / "p", study)
    assert sorted(file.name for file in (tmp_path / "out" / "p").iterdir()) == [
        "lesion_mask.nii.gz",
        "lesion_types.nii.gz",
        "lung_mask.nii.gz",
        "overlay.png",
        "report.html",
        "report.json",
    ]
    mask = nib.Nifti1Image.from_filename(tmp_path / "out" / "p" / "lesion_mask.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    mask_affine = affine_of(tmp_path / "out" / "p" / "lesion_mask.nii.gz")
    np.testing.assert_allclose(mask_affine, affine_of(tmp_path / "p.nii.gz"), atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), np.asanyarray(turned.dataobj) > 0)


@pytest.mark.parametrize(("qform", "sform"), [(1, 0), (0, 2), (1, 4), (0, 0)])
def test_masks_of_a_nifti_carry_its_codes(tmp_path: Path, qform: int, sform: int) -> None:
    source = nib.Nifti1Image(ct(), np.diag([-0.7, -0.8, 2.5, 1.0]))
    source.set_qform(source.affine, qform)
    source.set_sform(source.affine, sform)
    nib.save(source, tmp_path / "p.nii")
    (study,) = (found.open(Reading()).complete() for found in find_inputs(tmp_path / "p.nii"))
    write(tmp_path / "out", study)
    assert codes_of(tmp_path / "out" / "lung_mask.nii.gz") == (qform, sform)
    np.testing.assert_allclose(
        affine_of(tmp_path / "out" / "lung_mask.nii.gz"), affine_of(tmp_path / "p.nii"), atol=1e-5
    )


def test_masks_of_an_image_are_png_of_its_size_with_labels_as_greys(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (30, 50), np.uint8)
    cv2.imwrite(str(tmp_path / "s.png"), grey)
    study = find_inputs(tmp_path / "s.png")[0].open(Reading(parse_window("-1000 1000"))).complete()
    report = write(tmp_path / "s", study)
    types = cv2.imread(str(tmp_path / "s" / "lesion_types.png"), cv2.IMREAD_UNCHANGED)
    assert types.dtype == np.uint8
    np.testing.assert_array_equal(types, decide(study).lesion_types[0])
    assert report["files"] == [
        "report.json",
        "report.html",
        "overlay.png",
        "lesion_mask.png",
        "lesion_types.png",
        "lung_mask.png",
    ]


def test_masks_of_a_phantom_lie_in_its_own_ras_affine(tmp_path: Path) -> None:
    phantom = make_labelled_phantom(size=64, slices=3)
    write(tmp_path / "x", phantom.study)
    mask = nib.Nifti1Image.from_filename(tmp_path / "x" / "lesion_mask.nii.gz")
    assert phantom.study.affine is not None
    assert codes_of(tmp_path / "x" / "lesion_mask.nii.gz") == (1, 1)
    np.testing.assert_allclose(affine_of(tmp_path / "x" / "lesion_mask.nii.gz"), phantom.study.affine, atol=1e-4)
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj).transpose(2, 1, 0), phantom.study.image > 0)


def test_the_report_says_what_was_read_what_decided_and_what_was_found(tmp_path: Path) -> None:
    study = make_labelled_phantom(size=64, slices=3).study
    report = json.loads(json.dumps(write(tmp_path / "x", study)))
    assert report["schema_version"] == 2
    assert report["disclaimer"] == "Research use only. Not a medical device."
    assert report["input"]["synthetic"] is True
    assert (report["input"]["slices"], report["input"]["rows"], report["input"]["columns"]) == (3, 64, 64)
    assert report["models"] == [
        {"task": "classification", "bundle_sha256": "ab" * 32, "backend": "onnxruntime", "precision": "fp32"}
    ]
    assert report["labels"]["lesion_types"]["3"] == "pleural effusion"
    assert [item["slice"] for item in report["slices"]] == [1, 2, 3]
    assert report["severity"]["whole"]["lung_ml"] > 0
    assert report["timings"]["inference_ms_per_slice"] == pytest.approx(4.0)
    assert set(report["files"]) == {file.name for file in (tmp_path / "x").iterdir()}


def test_an_earlier_result_is_replaced_whole(tmp_path: Path) -> None:
    study = make_labelled_phantom(size=64, slices=2).study
    write(tmp_path / "x", study)
    (tmp_path / "x" / "lesion_mask.png").write_bytes(b"left by a run on an image of this name")
    write(tmp_path / "x", study)
    assert not (tmp_path / "x" / "lesion_mask.png").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("theirs", ["IM0001", "report.json"])
def test_a_folder_that_is_not_a_result_is_never_replaced(tmp_path: Path, theirs: str) -> None:
    (tmp_path / "chest").mkdir()
    (tmp_path / "chest" / theirs).write_text("precious")
    (tmp_path / "chest" / "diary.txt").write_text("precious")
    with pytest.raises(UsageError, match="choose another --out"):
        write(tmp_path / "chest", make_labelled_phantom(size=64, slices=1).study)
    assert (tmp_path / "chest" / "diary.txt").read_text() == "precious"


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(result, "write_mask", full)
    with pytest.raises(UsageError, match="No space left on device"):
        write(tmp_path / "x", make_labelled_phantom(size=64, slices=1).study)
    assert list(tmp_path.iterdir()) == []
