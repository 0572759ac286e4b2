"""Synthetic studies as files: the phantom, as tall as it is wanted, as a DICOM series or a NIfTI volume."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ..model.errors import MissingPackageError
from ..model.phantom import make_phantom
from ..model.study import Study

Format = Literal["dicom", "nifti"]
FORMATS: tuple[Format, ...] = get_args(Format)
SIDE = 512
#: So many slices are drawn; a taller study repeats each, since drawing takes longer than all that is measured.
DRAWN = 50


def make_study(slices: int) -> Study:
    """The phantom in ``slices`` slices of 512 x 512, thinner the more they are."""
    drawn = make_phantom(size=SIDE, slices=min(slices, DRAWN))
    if slices == len(drawn.image):
        return drawn
    assert drawn.spacing_mm is not None
    assert drawn.affine is not None
    share = len(drawn.image) / slices
    between, *pixel = drawn.spacing_mm
    return replace(
        drawn,
        image=drawn.image[np.arange(slices) * len(drawn.image) // slices],
        spacing_mm=(between * share, *pixel),
        affine=drawn.affine @ np.diag([1, 1, share, 1]),
    )


def write_study(study: Study, folder: Path, kind: Format) -> Path:
    """Write a study into an empty folder; the file or the folder that `coronanet predict` is given.

    Raises:
        MissingPackageError: DICOM was asked for, and pydicom is not installed.
    """
    return _write_nifti(study, folder) if kind == "nifti" else _write_dicom(study, folder / study.name)


def _write_nifti(study: Study, folder: Path) -> Path:
    import nibabel as nib

    path = folder / f"{study.name}.nii.gz"
    nib.save(nib.Nifti1Image(study.image.transpose(2, 1, 0), study.affine), path)
    return path


def _write_dicom(study: Study, folder: Path) -> Path:
    """Single slices of 16 bits, uncompressed, as scanners send them."""
    try:
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
    except ModuleNotFoundError:
        raise MissingPackageError("pydicom", purpose="writing a DICOM series", extra="dicom") from None
    assert study.spacing_mm is not None
    folder.mkdir()
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    for index, image in enumerate(study.image):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        fields = uids | {
            "SOPClassUID": CTImageStorage,
            "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
            "Modality": "CT",
            "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
            "PatientName": "Synthetic^Phantom",
            "PatientID": "PHANTOM",
            "SeriesNumber": 1,
            "InstanceNumber": index + 1,
            "ImagePositionPatient": [0.0, 0.0, round(index * study.spacing_mm[0], 4)],
            "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            "PixelSpacing": [round(size, 6) for size in study.spacing_mm[1:]],
            "SliceThickness": round(study.spacing_mm[0], 4),
            "Rows": image.shape[0],
            "Columns": image.shape[1],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 0,
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
            "PixelData": (image + 1024).astype(np.uint16).tobytes(),
        }
        for keyword, value in fields.items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / f"{index + 1:05d}.dcm", enforce_file_format=True)
    return folder
