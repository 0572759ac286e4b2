"""The structured report that a PACS gets: every number with its unit, on the segment and the series that it is of."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coronanet.model.findings import Decisions, StudyFindings, study_findings
from coronanet.model.readers import read_inputs
from coronanet.serving.dicom_out import write_dicom
from coronanet.serving.dicom_out.codes import CT_CHEST, LUNG, MILLILITRE, PERCENT, SEGMENTS, UNITLESS
from coronanet.serving.report import ModelRecord
from highdicom.sr import srread
from pydicom import dcmread
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

SeriesWriter = Callable[..., list[Path]]
Plant = Callable[[], Decisions]
Models = tuple[ModelRecord, ...]
VALIDATOR = shutil.which("dciodvfy")


@pytest.fixture
def written(tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models) -> StudyFindings:
    """Both objects of the phantom in ``tmp_path``; what they must say."""
    write_series(tmp_path / "chest", BodyPartExamined="CHEST")
    (study,) = read_inputs([tmp_path / "chest"])
    findings = study_findings(planted(), study.spacing_mm)
    write_dicom(tmp_path, study, planted(), findings, models)
    return findings


def test_every_segment_has_its_volume_and_its_share_of_the_lung(tmp_path: Path, written: StudyFindings) -> None:
    report = srread(tmp_path / "report-sr.dcm")
    segmentation = dcmread(tmp_path / "segmentation.dcm")
    source = dcmread(next((tmp_path / "chest").iterdir()))
    assert written.volumes_ml is not None
    assert written.percent_of_lung_by_type is not None
    volumes = [written.volumes_ml.lung, *written.volumes_ml.by_type.values()]
    shares = [None, *written.percent_of_lung_by_type.values(), None]
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == 4
    for number, (group, volume, share) in enumerate(zip(groups, volumes, shares, strict=True), start=1):
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert segment.referenced_segment_numbers == [number]
        assert segment.source_series_for_segmentation.value == source.SeriesInstanceUID
        assert group.tracking_uid == segmentation.SegmentSequence[number - 1].TrackingUID
        (measured,) = group.get_measurements(name=codes.SCT.Volume)
        assert measured.value == pytest.approx(volume, abs=1e-5)
        assert (measured.unit.value, measured.unit.scheme_designator) == ("mL", "UCUM")
        others = [each for each in group.get_measurements() if each.name != codes.SCT.Volume]
        assert [each.value for each in others] == ([] if share is None else [pytest.approx(share, abs=1e-5)])
        assert all(each.unit.value == "%" for each in others)


def test_the_whole_study_has_its_share_involved_and_probability(tmp_path: Path, written: StudyFindings) -> None:
    (group,) = srread(tmp_path / "report-sr.dcm").content.get_image_measurement_groups()
    values = {each.name.value: each.value for each in group.get_measurements()}
    assert values["infected-probability"] == pytest.approx(1.0)
    assert values["percent-involved"] == pytest.approx(written.percent_of_lung_involved, abs=1e-5)


def test_it_is_preliminary_for_research_and_refers_to_every_image(tmp_path: Path, written: StudyFindings) -> None:
    dataset = dcmread(tmp_path / "report-sr.dcm")
    source = dcmread(next((tmp_path / "chest").iterdir()))
    assert dataset.StudyInstanceUID == source.StudyInstanceUID
    assert (dataset.VerificationFlag, dataset.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert dataset.ContentQualification == "RESEARCH"
    assert "Research use only. Not a medical device." in [item.get("TextValue") for item in dataset.ContentSequence]
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    assert [len(series.ReferencedSOPSequence) for series in study.ReferencedSeriesSequence] == [6, 1]


def test_codes_are_those_of_the_standard_but_for_two() -> None:
    said = {code for segment in SEGMENTS for code in (segment.category, segment.kind, segment.site)}
    said |= {LUNG, PERCENT, MILLILITRE, UNITLESS, CT_CHEST}
    unlisted = {code for code in said if code not in _listed(code.scheme_designator)}
    assert {(code.scheme_designator, code.value) for code in unlisted} == {("SCT", "95436008"), ("UCUM", "mL")}


def _listed(scheme: str) -> set[Code]:
    """What pydicom knows of PS3.16."""
    collection = getattr(codes, scheme)
    return {getattr(collection, name) for name in collection.dir()}


def test_without_thickness_there_are_no_volumes(
    tmp_path: Path, write_series: SeriesWriter, planted: Plant, models: Models
) -> None:
    paths = write_series(tmp_path / "chest", SliceThickness=None)
    (study,) = read_inputs([paths[2]])
    whole = planted()
    decisions = Decisions(*(np.asarray(field[2:3]) for field in vars(whole).values()))
    write_dicom(tmp_path, study, decisions, study_findings(decisions, study.spacing_mm), models)
    groups = srread(tmp_path / "report-sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert [group.get_measurements(name=codes.SCT.Volume) for group in groups] == [[], [], [], []]


@pytest.mark.skipif(VALIDATOR is None, reason="dciodvfy is not installed: apt install dicom3tools")
@pytest.mark.parametrize("name", ["segmentation.dcm", "report-sr.dcm"])
def test_dciodvfy_finds_no_error(tmp_path: Path, written: StudyFindings, name: str) -> None:
    assert VALIDATOR is not None
    done = subprocess.run([VALIDATOR, str(tmp_path / name)], capture_output=True, text=True, check=False)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "99CORONANET" not in line]
    assert said in (["Segmentation"], ["ComprehensiveSR"])
